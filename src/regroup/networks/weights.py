"""Weights from elsewhere: recognised by their keys, translated into our layout, checked, loaded, and told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from regroup.errors import CheckpointError
from regroup.networks.backbone import Backbone
from regroup.networks.layouts import OWN, Layout
from regroup.networks.state_dicts import State, readings, state_of
from regroup.networks.weight_files import few

M = TypeVar("M", bound=nn.Module)

_BACKGROUND = (1000, 1001)
"""Classes of a network, and of weights from TensorFlow, whose class 0 is the background."""

_FOREIGN = replace(OWN, name="the network")
"""What networks that are not ours are read by: the names that they have."""

_log = logging.getLogger(__name__)


@dataclass
class _Reading:
    """A state dict as one layout reads it, under our keys, and what there is to say of it."""

    layout: Layout
    state: State
    before: str = ""
    left_out: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def differs(self, model: nn.Module) -> dict[str, Any]:
        """Return the fields that the layout implies and the model does not have, if it is the layout."""
        own = model.state_dict().keys()
        if len(own & self.state.keys()) <= len(own) / 2:
            return {}
        implied = self.layout.implies(self.state)
        config = model.config if implied else None
        return {key: value for key, value in implied.items() if getattr(config, key) != value}

    def classes(self, model: nn.Module) -> dict[str, int]:
        """Return how many classes they are of, as a field of the network's config, if it has others."""
        own, counts = model.state_dict(), set()
        for key in own.keys() & self.state.keys():
            ours, theirs = own[key].shape, self.state[key].shape
            if ours != theirs and ours[1:] == theirs[1:]:
                counts.add((ours[0], theirs[0]))
        found = next(iter(counts)) if len(counts) == 1 else (1, 1)
        return {} if found in ((1, 1), _BACKGROUND) else {"num_classes": found[1]}

    def __str__(self) -> str:
        said = [f"{len(self.state)} tensors in {self.layout.name}'s layout"]
        said += [f"without the first '{self.before}' of their names"] if self.before else []
        said += [f"{len(self.left_out)} left out: {few(self.left_out)}"] if self.left_out else []
        return "; ".join(said + self.remarks)


def build_for(
    make: Callable[..., M],
    weights: str | Path | Mapping[str, Tensor],
    layouts: tuple[Layout, ...] = (),
    *,
    new_head: bool = False,
) -> M:
    """Build the network in the form that weights are for, and load them as `load_weights` does.

    Args:
        make: builds it, given fields of its config, such as the number of classes that the weights are for;
            those that the user has chosen prevail.
        weights: a .safetensors or .pth file, or a state dict.
        layouts: the foreign layouts to try.
        new_head: as in `load_weights`.

    Raises:
        CheckpointError: as `load_weights`.
    """
    name, state, where = state_of(weights)
    model = make()
    reading = _recognise(model, state, layouts)
    if different := {**reading.differs(model), **({} if new_head else reading.classes(model))}:
        model = make(**different)
    _load(model, state, layouts, name=name, where=where, new_head=new_head)
    return model


def load_weights(
    model: nn.Module,
    weights: str | Path | Mapping[str, Tensor],
    layouts: tuple[Layout, ...] = (),
    *,
    new_head: bool = False,
) -> None:
    """Load weights in any of `layouts` or our own; the model changes only if all of them fit.

    What was read as what, and what was left out, the logger `regroup.networks.weights` tells.

    Args:
        model: takes the weights.
        weights: a .safetensors or .pth file, or a state dict.
        layouts: the foreign layouts to try.
        new_head: leave the model's classifiers as they are, and load all the rest.

    Raises:
        CheckpointError: unreadable, for another form of the network, or keys that are missing, unexpected or
            of another shape.
    """
    name, state, where = state_of(weights)
    _load(model, state, layouts, name=name, where=where, new_head=new_head)


def _load(
    model: nn.Module, state: State, layouts: tuple[Layout, ...], *, name: str, where: str, new_head: bool
) -> None:
    own = model.state_dict()
    reading = _recognise(model, state, layouts)
    if different := reading.differs(model):
        theirs = ", ".join(f"{key}={value!r}" for key, value in different.items())
        ours = ", ".join(f"{key}={getattr(model.config, key)!r}" for key in different)
        raise CheckpointError(name, f"is for a network with {theirs}; this one has {ours}")
    _drop_background(reading, own)
    reading.state = _reshape(reading.state, own)
    if new_head:
        _keep_heads(reading, own)
    place = f"{where}, " if where else ""
    if problem := _misfit(reading.state, own):
        what = f"does not fit the network ({place}read as {reading.layout.name}'s layout): {problem}"
        _keep_heads(reading, own)
        remedy = "" if _misfit(reading.state, own) else "; new_head=True loads all but the classifier"
        raise CheckpointError(name, what + remedy)
    model.load_state_dict({**own, **reading.state})
    _log.info("%s: %s%s", name, place, reading)


def _recognise(network: nn.Module, state: State, layouts: tuple[Layout, ...]) -> _Reading:
    """Return the reading in which most keys are the network's; those that are not ours have no layouts."""
    model = cast("Backbone", network)
    own = model.state_dict().keys()
    plain = OWN if isinstance(network, Backbone) else _FOREIGN
    best, most = _Reading(plain, state), -1
    for before, held in readings(state, own):
        for layout in (plain, *layouts):
            translated = layout.translate(model, held)
            if before and not own & translated.keys():
                continue
            left_out = [key for key in translated if key == "n_averaged" or layout.unused(model, key)]
            used = {key: tensor for key, tensor in translated.items() if key not in left_out}
            used = layout.adjust(model, used) if layout.adjust else used
            if len(own & used.keys()) > most:
                best, most = _Reading(layout, used, before, left_out), len(own & used.keys())
    return best


def _heads_of(keys: Iterable[str]) -> set[str]:
    """Return those of `keys` that are classifiers', the auxiliary ones' too."""
    return {key for key in keys if ".classifier." in f".{key}"}


def _keep_heads(reading: _Reading, own: State) -> None:
    """Put the network's own classifiers in the place of theirs."""
    ours, theirs = _heads_of(own), _heads_of(reading.state)
    kept = {key: own[key] for key in ours}
    reading.state = {key: value for key, value in reading.state.items() if key not in theirs} | kept
    reading.remarks.append(f"the classifier is new: {few(sorted(ours | theirs))}")


def _drop_background(reading: _Reading, own: State) -> None:
    """Drop class 0 of TensorFlow's 1001 classes where the network has 1000."""
    for key in ("classifier.weight", "classifier.bias"):
        theirs, ours = reading.state.get(key), own.get(key)
        if theirs is None or ours is None:
            continue
        if theirs.shape[:1] == (1001,) and ours.shape[:1] == (1000,):
            reading.state[key] = theirs[1:]
            reading.remarks.append(f"{key} without class 0, TensorFlow's background")


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
    both = sorted(own.keys() & state.keys())
    problems = {
        "missing": sorted(own.keys() - state.keys() - counters),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in both
            if state[key].shape != own[key].shape
        ],
        "of another kind of number": [
            f"{key} {state[key].dtype} for {own[key].dtype}"
            for key in both
            if state[key].is_floating_point() != own[key].is_floating_point() or state[key].is_complex()
        ],
    }
    return "; ".join(f"{len(keys)} {kind}: {few(keys)}" for kind, keys in problems.items() if keys)
