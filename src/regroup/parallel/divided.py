"""A tensor whose channels are divided among devices, as a network's own code sees it.

Its sizes are those of the whole; what this device holds is in `block`. Operators on it have rules
(`regroup.parallel.rules`); what has none gets the whole tensor, gathered, and is named in the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regroup.ops.tags import Ints, Tag
from regroup.parallel.division import Division
from regroup.parallel.wire import Exchange, Gather, Whole, Wire, select


@dataclass(eq=False)
class Block:
    """What this device holds of a tensor (N, C, ...): the channels `division.held[rank]`, at dimension 1.

    What was fetched from other devices is remembered, so that two readers fetch it once.

    Args:
        local: those channels.
        division: which channels are on which device.
        is_view: whether it shares its memory with another block in the network's own code.
    """

    local: Tensor
    division: Division
    is_view: bool = False
    _fetched: dict[tuple[bytes, ...], tuple[Division, Tensor]] = field(default_factory=dict)
    _gathered: Tensor | None = None

    def at(self, division: Division, wire: Wire, layer: str) -> Tensor:
        """Return the channels that this device has in another division, each at least once on some device."""
        if division.key == self.division.key:
            return self.local
        if division.key not in self._fetched:
            if self.division.moved_to(division).any():
                local = Exchange.apply(self.local, wire, self.division, division, layer)
            else:
                local = select(self.local, 1, self.division.owners[1][division.held[wire.rank]])
            self._fetched[division.key] = division, local
        return self._fetched[division.key][1]

    def gathered(self, wire: Wire, layer: str) -> Tensor:
        """Return all channels, for readers that each make their own outputs of them."""
        if self._gathered is None:
            self._gathered = Gather.apply(self.local, wire, self.division, layer)
        return self._gathered

    def whole(self, wire: Wire, layer: str) -> Tensor:
        """Return all channels, for what all devices do alike."""
        return Whole.apply(self.local, wire, self.division, layer).clone()  # which may be changed in place

    def divisions(self) -> list[Division]:
        """Return those in which it can be had without any communication."""
        channels = sum(self.division.counts)
        fetched = [d for d, _ in self._fetched.values() if sum(d.counts) == channels]
        return [self.division, *fetched]

    def replace(self, local: Tensor, division: Division) -> None:
        """Have other numbers from now on, as after an operator in place."""
        self.local, self.division = local, division
        self._fetched.clear()
        self._gathered = None


class Divided(Tensor):
    """See the module. Without numbers itself: a tensor on the device "meta" of the whole's sizes."""

    block: Block
    order: list[Tag] | None
    """None: dimension 1 is the block's channels. Otherwise what stands where, between two such shapes."""
    moves: tuple[tuple[Any, tuple, dict], ...]
    """What has been done to it since dimension 1 was."""
    running: Any
    """The `Running` that knows what to do with it."""

    @staticmethod
    def of(running: Any, block: Block) -> Divided:
        """Return the tensor of which this device holds `block`."""
        local = block.local
        shape = local.shape[0], sum(block.division.counts), *local.shape[2:]
        empty = torch.empty(shape, dtype=local.dtype, device="meta")
        return Divided.viewing(running, empty, block)

    @staticmethod
    def viewing(
        running: Any, meta: Tensor, block: Block, order: list[Tag] | None = None, moves: tuple = ()
    ) -> Divided:
        """Return the tensor that the network's code sees as `meta`, of which this device holds `block`."""
        result = meta.as_subclass(Divided)
        result.block, result.order, result.moves, result.running = block, order, moves, running
        return result

    @property
    def settled(self) -> bool:
        """Whether dimension 1 is the block's channels, so that operators can work on it."""
        return self.order is None

    def meta(self) -> Tensor:
        """Return a plain tensor of its sizes, with the memory that its views share."""
        return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Ask the rules."""
        found = next(a for a in _leaves((args, kwargs)) if isinstance(a, Divided))
        return found.running.call(func, args, kwargs or {})


def _leaves(nested: Any) -> list[Any]:
    if isinstance(nested, (tuple, list)):
        return [leaf for each in nested for leaf in _leaves(each)]
    if isinstance(nested, dict):
        return _leaves(list(nested.values()))
    return [nested]


def tags_of(shape: torch.Size) -> list[Tag]:
    """Return the tags of a tensor (N, C, ...): images, channels, and the rest as one.

    Labels of images are negative, of channels 0 and more, of the rest beyond all channels.
    """
    rest = np.arange(int(np.prod(shape[2:]))).reshape(tuple(shape[2:]))
    tags = [Tag((1,), np.arange(shape[1]), np.zeros(shape[1], np.int64))]
    if shape[0] > 1:
        tags.append(Tag((0,), -1 - np.arange(shape[0]), np.zeros(shape[0], np.int64)))
    if rest.size > 1:
        dims = tuple(range(2, len(shape)))
        tags.append(Tag(dims, rest + shape[1], np.zeros_like(rest)))
    return tags


def channel_order(tags: list[Tag], shape: torch.Size, was: torch.Size) -> Ints | None:
    """Return which channel of `was` each position of dimension 1 is; None if more has changed.

    Args:
        tags: those of `tags_of(was)`, carried along.
        shape: the sizes now.
        was: sizes of the block's tensor.
    """
    if len(shape) < 2 or shape[0] != was[0] or np.prod(shape[2:]) != np.prod(was[2:]):
        return None
    channels = was[1]
    found = None
    for tag in tags:
        labels = tag.label.ravel()
        if tag.sub.any():
            return None
        if tag.dims == (1,) and labels.min() >= 0 and labels.max() < channels:
            found = labels
        elif labels.max() < 0:
            if tag.dims != (0,) or (labels != -1 - np.arange(len(labels))).any():
                return None
        elif labels.min() < channels or min(tag.dims) < 2 or (np.diff(labels) != 1).any():
            return None
    return found
