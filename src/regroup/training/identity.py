"""What makes a run the run that it is: everything that decides its weights, as JSON with a hash.

>>> a, b = (Identity({"config": {"lr": lr}, "data": {"train": 96}}) for lr in (0.1, 0.2))
>>> a.differences(b)
[Difference(name='lr', was=0.1, now=0.2)]
>>> a.digest == b.digest
False

Covered are what the caller says of the model (name, options, strategy, ...), its modules with attributes and
shapes, the code that its user wrote, as it is loaded, and the releases of the packages, the images, the
training settings, the teacher, and the first weights if they come from outside. What is not
covered is said in `docs/runs.md`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from regroup.training.canonical import canonical, name_of
from regroup.training.code import packages, sources

if TYPE_CHECKING:
    from regroup.training.config import TrainConfig
    from regroup.training.data import DataSet

MISSING = "nothing"
"""What a difference shows where one side does not have the field."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_PREFIXES = {
    "network": "",
    "config": "",
    "data": "data ",
    "sources": "source ",
    "packages": "release of ",
    "structure": "structure of ",
    "teacher": "teacher ",
}


class Difference(NamedTuple):
    """A field in which two identities differ, and its values as in a text."""

    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} ({self.now!r}, was {self.was!r})"


@dataclass(frozen=True)
class Identity:
    """All that decides the weights of a run: nested dictionaries of JSON values."""

    fields: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """A hash of all fields."""
        return hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()[:32]

    def differences(self, other: Identity) -> list[Difference]:
        """Return where `other` differs from this, with the values of this one as what was."""
        was, now = (dict(_leaves(one.fields)) for one in (self, other))
        names = [*was, *(name for name in now if name not in was)]
        return [
            Difference(name, was.get(name, MISSING), now.get(name, MISSING))
            for name in names
            if was.get(name, MISSING) != now.get(name, MISSING)
        ]

    def with_config(self, **changes: Any) -> Identity:
        """Return this identity with other training settings."""
        return Identity({**self.fields, "config": {**self.fields["config"], **changes}})


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, for the identity of its run.

    Args:
        said: what decides the model and can be said in words: its name, options, strategy; JSON values.
        code: classes, functions and modules whose source decides it, besides the classes of its modules.
        weights: hash of its first weights, if they come from elsewhere than its seed: see `digest_of_state`.
        document: what to write beside the trained weights; None: only checkpoints are written.
        command: the command's options, by which `regroup train --resume RUN` goes on.
    """

    said: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[Any, ...] = ()
    weights: str | None = None
    document: Mapping[str, Any] | None = None
    command: Mapping[str, Any] | None = None


def identify(
    model: nn.Module,
    data: DataSet,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    processes: int = 1,
    origin: Origin | None = None,
) -> Identity:
    """Return the identity of the run that `train` makes of these; arguments as there, before training."""
    origin = origin or Origin()
    models = (model,) if teacher is None else (model, teacher)
    code = [*code_of(*models, data=data), *origin.code]
    fields = {
        "network": dict(origin.said),
        "config": config.result(),
        "data": describe_data(data),
        "processes": processes,
        "teacher": None if teacher is None else {"weights": digest_of_state(teacher), **structure(teacher)},
        "weights": origin.weights or "of the seed",
        "sources": sources(code),
        "packages": packages(code),
        "structure": structure(model),
    }
    return Identity(json.loads(json.dumps(fields)))  # as it will be read again: no tuples


def structure(model: nn.Module) -> dict[str, str]:
    """Return a hash for each class of a model's modules: of their names, attributes and tensors' shapes."""
    seen: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        entry = [name, name_of(type(module)), _attributes(module), _tensors(module)]
        seen.setdefault(type(module).__qualname__, hashlib.sha256()).update(json.dumps(entry).encode())
    return {name: digest.hexdigest()[:12] for name, digest in sorted(seen.items())}


def digest_of_state(model: nn.Module) -> str:
    """Return a hash of a model's parameters and buffers."""
    seen = hashlib.sha256()
    for name, value in model.state_dict().items():
        seen.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        seen.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()[:32]


def code_of(*models: nn.Module, data: DataSet) -> list[Any]:
    """Return the classes by whose code networks and a data set's splits are made, and what modules hold."""
    found = {type(data.train), type(data.test)}
    found |= {cls for model in models for module in model.modules() for cls in type(module).__mro__}
    classes = sorted(found, key=lambda c: (c.__module__, c.__qualname__))
    modules = (module for model in models for module in model.modules())
    return [*classes, *(value for module in modules for _, value in _held(module))]


def _held(module: nn.Module) -> list[tuple[str, Any]]:
    """Return a module's hooks and attributes, but for those that every module has, and the modules in it."""
    inner = {*vars(nn.Module()), *vars(module)["_modules"]}
    found = [(name, value) for name, value in sorted(vars(module).items()) if name not in inner]
    return found + [(name, [*hooks.values()]) for name in _HOOKS if (hooks := vars(module).get(name))]


def _attributes(module: nn.Module) -> list[Any]:
    return [[name, canonical(value)] for name, value in _held(module)]


def _tensors(module: nn.Module) -> list[Any]:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return [[name, str(value.dtype), list(value.shape), value.requires_grad] for name, value in own]


def describe_data(data: DataSet) -> dict[str, Any]:
    """Return what tells a data set, as JSON values."""
    reading = {"mean": list(data.mean), "std": list(data.std), "part": data.part}
    return {
        "task": data.task,
        "shape": list(data.shape),
        "classes": list(data.classes) if len(data.classes) <= 20 else len(data.classes),
        "train": len(data.train),
        "test": len(data.test),
        "reading": {**reading, "crop": data.crop, "resample": data.resample},
        "augmentation": asdict(data.augmentation),
        "contents": _digest_of_data(data),
    }


def _digest_of_data(data: DataSet) -> str:
    parts = [*data.classes, data.train.digest(), data.test.digest()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _leaves(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every field that has no others in it, by what people call it, and its value."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _below(value, _PREFIXES.get(name, f"{name} "))
        else:
            yield name, value


def _below(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _below(inner, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", inner
