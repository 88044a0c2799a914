"""Follow, element by element, which source channels influence what a network computes.

The network runs as it is, on a small image, and beside each tensor stands an influence: for each of S source
channels and each element, whether (or how much) the source matters there. It is kept by storage, so that
views, slices and in-place operators need no rule: only an operator that computes or moves data does
(`rules.py`). An operator without a rule is taken to mix everything, and is named.

Weights and buffers are constants: where they are zero nothing passes, so that masks, index tensors and pruned
weights count. A parameter that is zero throughout has only not been trained yet, and lets everything pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regroup.profiling.rules import Call, Semiring, is_mixing, rule_for
from regroup.profiling.traffic import reads_values
from regroup.profiling.where import Where


@dataclass
class _Entry:
    """What is known of one storage that holds data, which is what depends on the network's input."""

    storage: StorageWeakRef
    influence: Tensor | None = None
    """(S, elements of the storage); None where no source has reached it."""
    depth: int = 0
    """Most convolutions and matrix products on a way from the source."""


class Influence(TorchDispatchMode):
    """Keep the influences while a network runs inside a `with`.

    Args:
        semiring: yes or no, or how much.
        where: to say by whom an operator is called.
        on_mixing: called with (layer, depth, influence) of each convolution and matrix product that a
            source reaches; the influence is (S, *output shape).
    """

    def __init__(
        self, semiring: Semiring, where: Where, on_mixing: Callable[[str, int, Tensor], None] | None = None
    ) -> None:
        super().__init__()
        self.semiring, self.where, self.on_mixing = semiring, where, on_mixing
        self.assumed: set[str] = set()
        self.sources = 0
        self._entries: dict[int, _Entry] = {}
        self._untrained: set[int] = set()

    def constants(self, model: nn.Module) -> None:
        """Take note of the parameters that are zero throughout."""
        zero = (p for p in model.parameters() if not p.any())
        self._untrained = {_key(p) for p in zero}

    def data(self, tensors: Iterable[Tensor]) -> None:
        """Declare tensors as data: what the network is run on."""
        for tensor in tensors:
            self._entry(tensor)

    def seed(self, tensor: Tensor, influence: Tensor) -> None:
        """Say which source (S) influences which element of a tensor: (S, *tensor.shape)."""
        self.sources = len(influence)
        self._write(tensor, influence, depth=0)

    def reaches(self, tensor: Tensor) -> bool:
        """Tell whether any source reaches a tensor."""
        entry = self._entries.get(_key(tensor))
        return entry is not None and entry.influence is not None

    def of(self, tensor: Tensor) -> Tensor | None:
        """Return the influences on a tensor, (S, *its shape), as numbers; None if no source reaches it."""
        entry = self._entries.get(_key(tensor))
        if entry is None or entry.influence is None:
            return None
        elements = entry.influence.shape[1]
        view = entry.influence.as_strided(
            (len(entry.influence), *tensor.shape), (elements, *tensor.stride()), tensor.storage_offset()
        )
        return view.float()

    def is_data(self, tensor: Tensor) -> bool:
        """Tell whether a tensor depends on the network's input."""
        return _key(tensor) in self._entries

    def passes(self, constant: Tensor) -> Tensor:
        """Return what a constant lets pass: where it is not zero, or its magnitudes."""
        if self.is_data(constant) or _key(constant) in self._untrained:
            return torch.ones_like(constant, dtype=torch.float32)
        return self.semiring.weights(constant)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if any(self.is_data(t) for t in given) and not _is_alias(func, given, out):
            self._record(Call(func, args, kwargs, out, self), given)
        return out

    def _record(self, call: Call, given: list[Tensor]) -> None:
        outputs = [t for t in tree_leaves(call.out) if isinstance(t, Tensor)]
        reached = [t for t in given if self.reaches(t)]
        if not reads_values(call.func):
            for tensor in outputs:
                if self.reaches(tensor):
                    self._write(tensor, torch.zeros(self.sources, *tensor.shape), 0)
            return
        if not reached:
            for tensor in outputs:
                self._entry(tensor)
            return
        rule = rule_for(call)
        if rule is None:
            self.assumed.add(str(call.func.overloadpacket))
        depth = max(self._entries[_key(t)].depth for t in reached) + is_mixing(call)
        for tensor in outputs:
            influence = rule(call, tensor) if rule else call.everything(tensor)
            self._write(tensor, influence, depth)
        if is_mixing(call) and self.on_mixing is not None:
            influence = self.of(outputs[0])
            assert influence is not None  # just written
            self.on_mixing(self.where.now(), depth, influence)

    def _entry(self, tensor: Tensor) -> _Entry:
        key = _key(tensor)
        if key not in self._entries:
            self._forget()
            self._entries[key] = _Entry(StorageWeakRef(tensor.untyped_storage()))
        return self._entries[key]

    def _write(self, tensor: Tensor, influence: Tensor, depth: int) -> None:
        entry = self._entry(tensor)
        if entry.influence is None:
            elements = tensor.untyped_storage().nbytes() // tensor.element_size()
            entry.influence = torch.zeros(len(influence), elements, dtype=self.semiring.dtype)
        place = entry.influence.as_strided(
            (len(influence), *tensor.shape),
            (entry.influence.shape[1], *tensor.stride()),
            tensor.storage_offset(),
        )
        place.copy_(influence)
        entry.depth = max(entry.depth, depth)

    def _forget(self) -> None:
        """Drop what is known of tensors that are gone: a large network would not fit into memory."""
        for key in [k for k, e in self._entries.items() if e.storage.expired()]:
            del self._entries[key]


def _is_alias(func: torch._ops.OpOverload, given: list[Tensor], out: object) -> bool:
    """Tell whether an operator only looks at the storage that it is given in another way."""
    if func._schema.is_mutable:
        return False
    keys = {_key(t) for t in given}
    return all(_key(t) in keys for t in tree_leaves(out) if isinstance(t, Tensor))


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
