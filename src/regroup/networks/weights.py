"""Weights from elsewhere: read, recognised by their keys, translated into our layout, checked, loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regroup.errors import CheckpointError

if TYPE_CHECKING:
    from regroup.networks.backbone import Backbone

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How another implementation names the same weights.

    A key is translated by the longest of `prefixes` that it begins with; the rest of the key by `parts`.

    Args:
        name: whose layout it is.
        prefixes: model -> their prefix to ours, e.g. {"layer1.0": "stages.0.0"}.
        parts: their part of a key to ours, e.g. {"bn1": "conv1.norm"}.
        adjust: changes the translated tensors where the functions differ by more than names.
        implies: translated weights to the fields of the network's config that they are for, e.g.
            {"order": "official"}.
    """

    name: str
    prefixes: Callable[[Backbone], Mapping[str, str]]
    parts: Mapping[str, str] = field(default_factory=dict)
    adjust: Callable[[Backbone, State], State] | None = None
    implies: Callable[[State], Mapping[str, Any]] = lambda state: {}

    def translate(self, model: Backbone, state: Mapping[str, Tensor]) -> State:
        """Return `state` under our keys."""
        prefixes = sorted(self.prefixes(model).items(), key=lambda item: -len(item[0]))
        translated = {_translate(key, prefixes, self.parts): tensor for key, tensor in state.items()}
        return self.adjust(model, translated) if self.adjust else translated


OWN = Layout("regroup", lambda model: {})


def _translate(key: str, prefixes: list[tuple[str, str]], parts: Mapping[str, str]) -> str:
    head, rest = "", key
    for theirs, ours in prefixes:
        if key == theirs or key.startswith(theirs + "."):
            head, rest = ours, key[len(theirs) + 1 :]
            break
    else:
        return key
    rest = f".{rest}."
    for theirs, ours in parts.items():
        if f".{theirs}." in rest:
            rest = rest.replace(f".{theirs}.", f".{ours}." if ours else ".", 1)
            break
    return f"{head}.{rest.strip('.')}".rstrip(".")


def build_for(
    make: Callable[..., Backbone],
    weights: str | Path | Mapping[str, Tensor],
    layouts: tuple[Layout, ...] = (),
) -> Backbone:
    """Build the network in the form that weights are for, and load them.

    Args:
        make: builds it, given fields of its config; those that the user has chosen prevail.
        weights: a .safetensors or .pth file, or a state dict.
        layouts: the foreign layouts to try.

    Raises:
        CheckpointError: as `load_weights`.
    """
    name, state = _state_of(weights)
    model = make()
    layout, translated = _recognise(model, state, layouts)
    if different := _different(model, layout, translated):
        model = make(**different)
    _load(model, state, layouts, name)
    return model


def load_weights(
    model: Backbone, weights: str | Path | Mapping[str, Tensor], layouts: tuple[Layout, ...] = ()
) -> None:
    """Load weights in any of `layouts` or our own; the model changes only if all of them fit.

    Args:
        model: takes the weights.
        weights: a .safetensors or .pth file, or a state dict.
        layouts: the foreign layouts to try.

    Raises:
        CheckpointError: unreadable, for another form of the network, or keys that are missing, unexpected or
            of another shape.
    """
    name, state = _state_of(weights)
    _load(model, state, layouts, name)


def _state_of(weights: str | Path | Mapping[str, Tensor]) -> tuple[str, State]:
    if isinstance(weights, (str, Path)):
        return str(weights), unwrap(read_weights(weights), str(weights))
    return "weights", unwrap(weights)


def _load(model: Backbone, state: State, layouts: tuple[Layout, ...], name: str) -> None:
    own = model.state_dict()
    layout, translated = _recognise(model, state, layouts)
    if different := _different(model, layout, translated):
        theirs = ", ".join(f"{key}={value!r}" for key, value in different.items())
        ours = ", ".join(f"{key}={getattr(model.config, key)!r}" for key in different)
        raise CheckpointError(name, f"is for a network with {theirs}; this one has {ours}")
    translated = _reshape(_drop_background(translated, own), own)
    if problem := _misfit(translated, own):
        raise CheckpointError(name, f"does not fit the network (read as {layout.name}'s layout): {problem}")
    model.load_state_dict({**own, **translated})


def _recognise(model: Backbone, state: State, layouts: tuple[Layout, ...]) -> tuple[Layout, State]:
    """Return the layout in which most keys are the model's, and the state under our keys."""
    own = model.state_dict().keys()
    translations = [(layout, layout.translate(model, state)) for layout in (OWN, *layouts)]
    return max(translations, key=lambda item: len(own & item[1].keys()))


def _different(model: Backbone, layout: Layout, translated: State) -> dict[str, Any]:
    """Return the fields that the layout implies and the model does not have, if it is the layout."""
    own = model.state_dict().keys()
    if len(own & translated.keys()) <= len(own) / 2:
        return {}
    implied = layout.implies(translated)
    return {key: value for key, value in implied.items() if getattr(model.config, key) != value}


def read_weights(path: str | Path) -> State:
    """Read a .safetensors file, or a PyTorch file without running any code of it.

    Raises:
        CheckpointError: not there, damaged, or more than tensors.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(path, "no such file") from None
    except Exception as error:  # damaged files raise six unrelated types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(path, f"cannot be read as weights: {reason}") from error


def unwrap(content: object, name: str = "weights") -> State:
    """Return the state dict inside a checkpoint: out of its wrapper, without the 'module.' prefixes.

    Raises:
        CheckpointError: there is no state dict.
    """
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(name, "holds no state dict")
    foreign = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise CheckpointError(name, f"holds other things than tensors: {_few(foreign)}")
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def _drop_background(state: State, own: State) -> State:
    """Drop class 0 of TensorFlow's 1001 classes where the network has 1000."""
    result = dict(state)
    for key in ("classifier.weight", "classifier.bias"):
        if key in state and key in own and (len(state[key]), len(own[key])) == (1001, 1000):
            result[key] = state[key][1:]
    return result


def _reshape(state: State, own: State) -> State:
    """Make 1x1 convolutions and linear layers of each other: they are the same weights."""
    result = dict(state)
    for key in state.keys() & own.keys():
        theirs, ours = state[key].shape, own[key].shape
        if (
            {len(theirs), len(ours)} == {2, 4}
            and theirs[:2] == ours[:2]
            and set(theirs[2:] + ours[2:]) == {1}
        ):
            result[key] = state[key].reshape(ours)
    return result


def _misfit(state: State, own: State) -> str:
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # old PyTorch did not save them
    problems = {
        "missing": sorted(own.keys() - state.keys() - counters),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in sorted(own.keys() & state.keys())
            if state[key].shape != own[key].shape
        ],
    }
    return "; ".join(f"{len(keys)} {kind}: {_few(keys)}" for kind, keys in problems.items() if keys)


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
