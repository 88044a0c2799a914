"""Foreign layouts of the networks' weights: whose keys mean which of our parameters, one file per family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regroup.networks.state_dicts import State

if TYPE_CHECKING:
    from regroup.networks.backbone import Backbone

SEPARATORS = ("/", "_")
"""What stands in Caffe's names, and what those who carry its weights over make of it."""


@dataclass(frozen=True)
class Layout:
    """How another implementation names the same weights.

    A key is translated by the longest of `prefixes` that it begins with; the rest of the key by `parts`.

    Args:
        name: whose layout it is.
        prefixes: model -> their prefix to ours, e.g. {"layer1.0": "stages.0.0"}.
        parts: their part of a key to ours, e.g. {"bn1": "conv1.norm"}.
        adjust: changes the translated tensors where the functions differ by more than names.
        unused: says of a translated key that the model has no use for it: it is left out, and said.
        implies: translated weights to the fields of the network's config that they are for, e.g.
            {"order": "official"}.
    """

    name: str
    prefixes: Callable[[Backbone], Mapping[str, str]]
    parts: Mapping[str, str] = field(default_factory=dict)
    adjust: Callable[[Backbone, State], State] | None = None
    unused: Callable[[Backbone, str], bool] = lambda model, key: False
    implies: Callable[[State], Mapping[str, Any]] = lambda state: {}

    def translate(self, model: Backbone, state: Mapping[str, Tensor]) -> State:
        """Return `state` under our keys; of two that would get one key, the second keeps its own."""
        prefixes = self.prefixes(model)
        translated: State = {}
        for key, tensor in state.items():
            ours = _translate(key, prefixes, self.parts)
            if ours not in translated:
                translated[ours] = tensor
            elif not _same(translated[ours], tensor):  # the same twice is one layer under two names
                translated[key] = tensor
        return translated


OWN = Layout("regroup", lambda model: {})


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))


def _translate(key: str, prefixes: Mapping[str, str], parts: Mapping[str, str]) -> str:
    theirs = key
    while theirs not in prefixes:  # the longest first
        theirs, dot, _ = theirs.rpartition(".")
        if not dot:
            return key
    head, rest = prefixes[theirs], f".{key[len(theirs) + 1 :]}."
    for theirs, ours in parts.items():
        if f".{theirs}." in rest:
            rest = rest.replace(f".{theirs}.", f".{ours}." if ours else ".", 1)
            break
    return f"{head}.{rest.strip('.')}".rstrip(".")
