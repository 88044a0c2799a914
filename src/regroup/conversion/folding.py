"""Fold channel orders into the weights around them, so that nothing is left to gather.

>>> order = ChannelOrder([7, 6, 5, 4, 3, 2, 1, 0])
>>> model = nn.Sequential(nn.Conv2d(8, 8, 1), order, nn.Conv2d(8, 8, 1, groups=2))
>>> print(fold_orders(model, torch.zeros(1, 8, 4, 4)))
folded 1 of 1 channel orders, 1.0 KiB less to move
>>> model[1]
Identity()

A gather moves every number of a tensor, and computes nothing. Where the channels before it or behind it can
stand in another order (`regroup.conversion.tying`), the weights are reordered instead: rows of those that
make the channels, columns of those that read them, and what lies between. Between two grouped layers it is
enough if each group gets its own channels in any order, and if whole groups can change places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from regroup.conversion.structure.labels import Cells, Labels
from regroup.conversion.structure.matching import (
    Moves,
    balanced,
    blocked,
    blocks,
    classes,
    counts,
    matched,
    parts_of,
    placed,
)
from regroup.conversion.structure.trace import Trace
from regroup.conversion.structure.walk import OrderCall, Walk
from regroup.conversion.tying import permute, tensors_of, traces_of
from regroup.ops.order import ChannelOrder, ChannelShuffle, shuffle
from regroup.ops.tags import FIXED, Ints

_INSIDE, _WHOLE = frozenset[str](), frozenset({"groups"})


@dataclass(frozen=True)
class Gather:
    """A module that orders channels.

    Args:
        name: of the module.
        channels: that leave it.
        moved: bytes that it reads and writes, for the example.
        reason: why it is left; empty if it was folded.
    """

    name: str
    channels: int
    moved: int
    reason: str = ""


@dataclass(frozen=True)
class Folding:
    """What `fold_orders` did.

    Args:
        folded: modules that are an `nn.Identity` now.
        left: those that remain, and why.
    """

    folded: tuple[Gather, ...] = ()
    left: tuple[Gather, ...] = ()

    def __str__(self) -> str:
        """Say it in words."""
        saved = sum(g.moved for g in self.folded) / 1024
        lines = [
            f"folded {len(self.folded)} of {len(self.folded) + len(self.left)} channel orders, "
            f"{saved:.1f} KiB less to move"
        ]
        lines += [f"left: {g.name}, {g.moved / 1024:.1f} KiB: {g.reason}" for g in self.left]
        return "\n".join(lines)


def fold_orders(model: nn.Module, *inputs: Any) -> Folding:
    """Fold the channel orders of a network into weights, in place; what it computes stays the same.

    Modules that are folded (`ChannelOrder`, `ChannelShuffle`, `torch.nn.ChannelShuffle`) become an
    `nn.Identity`; those that are left may have another order than before, where that lets others be folded.
    Keys of the state dict stay, but for the orders of those that are gone. What moves most is folded first.

    Args:
        model: any PyTorch model.
        inputs: what it is called with.

    Returns:
        What was folded, and what remains as a gather, why, and what it moves.

    Raises:
        ConversionError: the network cannot be traced.
    """
    modules = {name: m for name, m in model.named_modules() if name and is_order(m)}
    if not modules:
        return Folding()
    traces, _ = traces_of(model, inputs)
    calls = [_calls(one, modules) for one in traces]
    entering = {call.name: call.entering.shape[1] for found in reversed(calls) for call in found.values()}
    reasons = {name: _why_not(name, module, traces, calls) for name, module in modules.items()}
    known = {
        name: order_of(m, entering[name])
        for name, m in modules.items()
        if not reasons[name] and name in entering
    }
    network = _Network(model, traces, [_of(found, known) for found in calls], dict(known), entering)
    sizes = {name: _bytes(name, calls) for name in modules}
    reasons |= network.fold_all(sorted(known, key=lambda name: -sizes[name][1]))
    folded = network.folded
    network.replace(modules, known)
    gathers = {name: Gather(name, *sizes[name], reasons[name]) for name in modules}
    left = tuple(g for name, g in gathers.items() if name not in folded)
    return Folding(tuple(gathers[name] for name in modules if name in folded), left)


def is_order(module: nn.Module) -> bool:
    """Tell whether a module orders channels and does nothing else."""
    kinds = (ChannelOrder, ChannelShuffle, nn.ChannelShuffle)
    return isinstance(module, kinds) and type(module).forward in [kind.forward for kind in kinds]


def order_of(module: nn.Module, channels: int) -> Ints:
    """Return the order of a module that `is_order`, for so many channels that enter it."""
    if isinstance(module, ChannelOrder):
        return module.order.cpu().numpy().copy()
    return shuffle(channels, module.groups).numpy()  # type: ignore[bad-argument-type]


def _calls(trace: Trace, names: Iterable[str]) -> dict[int, OrderCall]:
    """Return the calls of modules that order channels."""
    ops: dict[int, list] = {}
    for op in trace.ops:
        if op.module in names:
            ops.setdefault(op.call, []).append(op)
    return {
        call: OrderCall(ran[0].module, next(v for v in ran[0].values if v.is_data), ran[-1].outputs[0])
        for call, ran in ops.items()
        if any(v.is_data for v in ran[0].values)
    }


def _of(calls: Mapping[int, OrderCall], names: Iterable[str]) -> dict[int, OrderCall]:
    return {call: found for call, found in calls.items() if found.name in names}


def _bytes(name: str, calls: Sequence[Mapping[int, OrderCall]]) -> tuple[int, int]:
    """Return how many channels leave a module, and how many bytes it reads and writes."""
    left = [call.leaving for call in calls[0].values() if call.name == name]
    channels = left[0].shape[1] if left else 0
    return channels, sum(2 * v.itemsize * int(np.prod(v.shape)) for v in left)


def _why_not(
    name: str, module: nn.Module, traces: Sequence[Trace], calls: Sequence[Mapping[int, OrderCall]]
) -> str:
    """Return why a module cannot be folded, before anything is known of its neighbours."""
    times = [sum(call.name == name for call in found.values()) for found in calls]
    if not any(times):
        return "it is not run"
    if max(times) > 1:
        return f"it is called {max(times)} times"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has hooks"
    own = {f"{name}.order"}
    for op in (op for one in traces for op in one.ops):
        if op.module != name and own & {v.name for v in op.values}:
            return f"its order is read by {op.place}"
    return ""


class _Network:
    """A model whose orders are folded one by one.

    Args:
        model: is changed in place.
        traces: its runs; they stay right, for only numbers change.
        calls: of each run, those of modules that order channels.
        orders: by module, what its order is now: of each channel that leaves the one that enters.
        widths: by module, how many channels enter it.
    """

    def __init__(
        self,
        model: nn.Module,
        traces: Sequence[Trace],
        calls: Sequence[Mapping[int, OrderCall]],
        orders: dict[str, Ints],
        widths: Mapping[str, int],
    ) -> None:
        self._widths = widths
        self.model, self.traces, self.calls, self.orders = model, traces, calls, orders
        self.folded: list[str] = []
        self._walks: dict[frozenset[str], Walk] = {}
        self._known: dict[frozenset[str], Cells] = {}

    def fold_all(self, names: Sequence[str]) -> dict[str, str]:
        """Fold orders, the first ones first; return of each why not, or "".

        What is folded ties channels. What can move is found again when an order comes whose channels are
        among those, or among those of another that waits for it.
        """
        reasons: dict[str, str] = {}
        while waiting := [name for name in names if name not in reasons]:
            self._known = {}
            stale: dict[frozenset[str], set[int]] = {bundles: set() for bundles in (_INSIDE, _WHOLE)}
            for name in waiting:
                beside = {bundles: self._beside(name, bundles) for bundles in stale}
                clean = not any(beside[bundles] & stale[bundles] for bundles in stale)
                if clean:
                    reasons[name] = self.fold(name)
                if not clean or not reasons[name]:
                    stale = {bundles: stale[bundles] | beside[bundles] for bundles in stale}
        return reasons

    def _beside(self, name: str, bundles: frozenset[str]) -> set[int]:
        """Return the cells of channels that enter or leave a module."""
        walk, cells = self._cells(bundles)
        found = [side.label[side.label != FIXED] for side in walk.sides[name] if side is not None]
        return set(cells.cell[cells.component[np.concatenate(found)]].tolist()) - {FIXED}

    def fold(self, name: str) -> str:
        """Let a module leave what enters it, by reordering weights; return why not, or ""."""
        order = self.orders[name]
        inside, cells = self._cells(_INSIDE)
        entering, leaving = inside.sides[name]
        channels = self._widths[name]
        repeated = len(order) - len(np.unique(order))
        if len(order) != channels or repeated:
            return f"it takes {len(np.unique(order))} of {channels} channels" + (
                f", {repeated} of them again" if repeated else ""
            )
        before, behind = (
            parts_of(entering, leaving, cells, channels),
            parts_of(leaving, entering, cells, channels),
        )
        if not balanced(order, before, behind):
            if not self._move_groups(name, before, behind):
                return blocked(before, behind)
            order = self.orders[name]
        new = np.empty_like(order)  # of each channel that leaves, in its new place, the old one
        new[np.lexsort((before, behind))] = np.lexsort((before[order], behind))
        moves = Moves(inside.labels, cells)
        moves.put(leaving, new)
        if entering is not None:
            moves.put(entering, order[new])
        self._apply(inside, moves.order)
        assert (self.orders[name] == np.arange(channels)).all()
        self.folded.append(name)
        for walk in self._walks.values():
            _join(walk, name)
        return ""

    def _cells(self, bundles: frozenset[str]) -> tuple[Walk, Cells]:
        """Return what can move: as it was when it was last asked for anew."""
        if bundles not in self._walks:
            self._walks[bundles] = walk = Walk(Labels(), bundles)
            for trace, calls in zip(self.traces, self.calls, strict=True):
                walk.follow(trace, calls)
            for name in self.folded:
                _join(walk, name)
        walk = self._walks[bundles]
        if bundles not in self._known:
            self._known[bundles] = walk.labels.cells()
        return walk, self._known[bundles]

    def _move_groups(self, name: str, before: Ints, behind: Ints) -> bool:
        """Let whole groups change places so that only orders inside of them are left; or return False."""
        walk, cells = self._cells(_WHOLE)
        order, (entering, leaving) = self.orders[name], walk.sides[name]
        count = counts(order, before, behind)
        wanted = counts(np.arange(len(order)), before, behind)
        for side, other, parts, now, then in (
            (leaving, entering, behind, count.T, wanted.T),
            (entering, leaving, before, count, wanted),
        ):
            places = matched(now, then, classes(side, other, parts, cells))
            if side is not None and places is not None:
                moves = Moves(walk.labels, cells)
                moves.put(side, blocks(parts, places))
                self._apply(walk, moves.order)
                return True
        return False

    def _apply(self, walk: Walk, order: Ints) -> None:
        """Give every label the place of another, in all tensors and in the orders that are left."""
        state, moves = tensors_of(self.model), {}
        for home in walk.labels.homes:
            move = order[home.first : home.first + home.size] - home.first
            if home.name and (move != np.arange(home.size)).any():
                moves.setdefault(home.name, {})[home.dim, home.groups] = move
        with torch.no_grad():
            for name, of in moves.items():
                permute(state[name], of)
        for name, (entering, leaving) in walk.sides.items():
            if name not in self.folded:
                old, new_leaving = self.orders[name], placed(leaving, order)
                inside = np.arange(self._widths[name]) if entering is None else placed(entering, order)
                where = np.empty_like(inside)
                where[inside] = np.arange(len(inside))
                self.orders[name] = where[old[new_leaving]]

    def replace(self, modules: Mapping[str, nn.Module], before: Mapping[str, Ints]) -> None:
        """Put identities in place of what is folded, and give the others their new orders."""
        for name in self.model.named_modules(remove_duplicate=False):
            module = name[1]
            first = next((n for n, m in modules.items() if m is module), None)
            if first in self.folded:
                self._put(name[0], nn.Identity().train(module.training))
            elif first in self.orders and (self.orders[first] != before[first]).any():
                order = torch.from_numpy(self.orders[first])
                if isinstance(module, ChannelOrder):
                    module.order.copy_(order)
                else:
                    device = next(iter(tensors_of(self.model).values()), order).device
                    self._put(name[0], ChannelOrder(order).to(device).train(module.training))

    def _put(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)


def _join(walk: Walk, name: str) -> None:
    """Let what leaves a module have the order of what enters it."""
    walk.agree(*walk.sides[name], f"what enters {name} has a fixed order")
