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
from typing import Any

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
    """What is known of one storage that a source has reached."""

    storage: StorageWeakRef
    influence: Tensor
    """(S, elements of the storage)."""
    depth: int = 0
    """Most convolutions and matrix products on a way from the source."""


class Track:
    """What the sources that entered at one place influence.

    Args:
        network: what is run.
        on_mixing: called with (layer, depth, output) of each convolution and matrix product that a source
            reaches. Where it says True the track ends.
    """

    def __init__(
        self, network: Influence, on_mixing: Callable[[str, int, Tensor], bool] | None = None
    ) -> None:
        self.semiring, self.network, self.on_mixing = network.semiring, network, on_mixing
        self.assumed: set[str] = set()
        self.sources = 0
        self._entries: dict[int, _Entry] = {}
        self._seeds: list[StorageWeakRef] = []
        self._row = torch.empty(0, dtype=torch.long)

    def seed(self, tensor: Tensor, influence: Tensor) -> None:
        """Say which source (S) influences which element of a tensor: (S, *tensor.shape)."""
        self.sources = len(influence)
        self._row = torch.arange(self.sources)
        self._seeds.append(StorageWeakRef(tensor.untyped_storage()))
        self.network.declare_data([tensor])
        self._write(tensor, influence, depth=0)

    def by_channel(self, tensor: Tensor) -> Tensor:
        """Return how each source influences each channel: (channels, sources) from (N, channels, ...)."""
        influence = self.of(tensor)
        if influence is None:
            return torch.zeros(tensor.shape[1], len(self._row))
        flat = influence.flatten(3) if influence.ndim > 3 else influence[..., None]
        return self.semiring.spread(flat, (1, 3), False).t()[:, self._row]

    def reaches(self, tensor: Tensor) -> bool:
        """Tell whether any source reaches a tensor."""
        return _key(tensor) in self._entries

    def of(self, tensor: Tensor) -> Tensor | None:
        """Return the influences on a tensor, (S, *its shape), as numbers; None if no source reaches it."""
        entry = self._entries.get(_key(tensor))
        if entry is None:
            return None
        elements = entry.influence.shape[1]
        view = entry.influence.as_strided(
            (len(entry.influence), *tensor.shape), (elements, *tensor.stride()), tensor.storage_offset()
        )
        return view.float()

    def is_data(self, tensor: Tensor) -> bool:
        """Tell whether a tensor depends on the network's input."""
        return self.network.is_data(tensor)

    def passes(self, constant: Tensor) -> Tensor:
        """Return what a constant lets pass: where it is not zero, or its magnitudes."""
        if self.network.is_data(constant) or self.network.is_untrained(constant):
            return torch.ones_like(constant, dtype=torch.float32)
        return self.semiring.weights(constant)

    def follow(self, func: torch._ops.OpOverload, args: tuple, kwargs: dict, out: Any) -> bool:
        """Let one call of an operator pass the influences on; tell whether the track ends here."""
        reached = [t for t in _tensors((args, kwargs)) if self.reaches(t)]
        if not reads_values(func):
            for tensor in filter(self.reaches, _tensors(out)):
                self._write(tensor, torch.zeros(self.sources, *tensor.shape), 0)
            return False
        return bool(reached) and self._record(Call(func, args, kwargs, out, self), reached)

    def _record(self, call: Call, reached: list[Tensor]) -> bool:
        rule = rule_for(call)
        if rule is None:
            self.assumed.add(str(call.func.overloadpacket))
        depth = max(self._entries[_key(t)].depth for t in reached) + is_mixing(call)
        outputs = _tensors(call.out)
        for tensor in outputs:
            influence = rule(call, tensor) if rule else call.everything(tensor)
            self._write(tensor, influence, depth)
        if self.on_mixing is None or not is_mixing(call):
            return False
        return self.on_mixing(self.network.where.now(), depth, outputs[0])

    def _write(self, tensor: Tensor, influence: Tensor, depth: int) -> None:
        key = _key(tensor)
        if key not in self._entries:
            _forget(self._entries, lambda entry: entry.storage)
            influence = self._merge(influence)
            storage = tensor.untyped_storage()
            elements = storage.nbytes() // tensor.element_size()
            nothing = torch.zeros(len(influence), elements, dtype=self.semiring.dtype)
            self._entries[key] = _Entry(StorageWeakRef(storage), nothing)
        entry = self._entries[key]
        place = entry.influence.as_strided(
            (len(influence), *tensor.shape),
            (entry.influence.shape[1], *tensor.stride()),
            tensor.storage_offset(),
        )
        place.copy_(influence)
        entry.depth = max(entry.depth, depth)

    def _merge(self, written: Tensor) -> Tensor:
        """When what the sources entered by is gone, follow those that influence the same as one.

        All channels of a group do so behind a grouped convolution, unless a shortcut leads around it.

        Args:
            written: influences (S, ...) that are about to be kept; they are returned for the sources that
                are left.
        """
        if not self._seeds or not all(seed.expired() for seed in self._seeds):
            return written
        self._seeds = []
        known = [written.flatten(1), *(entry.influence for entry in self._entries.values())]
        generator = torch.Generator().manual_seed(0)
        sums = [k.float() @ torch.rand(k.shape[1], generator=generator) for k in known]
        _, row = torch.unique(torch.stack(sums, 1), dim=0, return_inverse=True)
        chosen = torch.zeros(int(row.max()) + 1, dtype=torch.long)
        chosen = chosen.index_copy(0, row, torch.arange(len(row)))  # any of those that are equal
        if not all(torch.equal(k, k[chosen][row]) for k in known):
            return written  # two sums were equal by chance
        self.sources, self._row = len(chosen), row[self._row]
        for entry in self._entries.values():
            entry.influence = entry.influence[chosen]
        return written[chosen]


class Influence(TorchDispatchMode):
    """Keep the influences while a network runs inside a `with`.

    Args:
        semiring: yes or no, or how much.
        where: to say by whom an operator is called.
        model: whose parameters are constants.
    """

    def __init__(self, semiring: Semiring, where: Where, model: nn.Module) -> None:
        super().__init__()
        self.semiring, self.where = semiring, where
        self.tracks: list[Track] = []
        """Those that are being followed: each has sources of its own, which may enter at any time."""
        self._data: dict[int, StorageWeakRef] = {}
        self._untrained = {_key(p) for p in model.parameters() if not p.any()}

    def declare_data(self, tensors: Iterable[Tensor]) -> None:
        """Declare tensors as data, which is what the network is run on and all that depends on it."""
        for tensor in tensors:
            if _key(tensor) not in self._data:
                _forget(self._data, lambda storage: storage)
                self._data[_key(tensor)] = StorageWeakRef(tensor.untyped_storage())

    def is_data(self, tensor: Tensor) -> bool:
        """Tell whether a tensor depends on the network's input."""
        return _key(tensor) in self._data

    def is_untrained(self, constant: Tensor) -> bool:
        """Tell whether a tensor is a parameter that is zero throughout."""
        return _key(constant) in self._untrained

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        given = _tensors((args, kwargs))
        if any(map(self.is_data, given)) and not _is_alias(func, given, out):
            self.called(func, args, kwargs, out)
            if reads_values(func):
                self.declare_data(_tensors(out))
        return out

    def called(self, func: torch._ops.OpOverload, args: tuple, kwargs: dict, out: Any) -> None:
        """Take note of one call of an operator on data: let the tracks follow it."""
        self.tracks = [t for t in self.tracks if not t.follow(func, args, kwargs, out)]


def _forget(known: dict[int, Any], storage_of: Callable[[Any], StorageWeakRef]) -> None:
    """Drop what is known of tensors that are gone: a large network would not fit into memory."""
    for key in [k for k, value in known.items() if storage_of(value).expired()]:
        del known[key]


def _tensors(tree: object) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _is_alias(func: torch._ops.OpOverload, given: list[Tensor], out: object) -> bool:
    """Tell whether an operator only looks at the storage that it is given in another way."""
    if func._schema.is_mutable:
        return False
    keys = {_key(t) for t in given}
    return all(_key(t) in keys for t in _tensors(out))


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
