"""What goes from device to device: four collectives, each counted, and what they are to autograd.

A tensor is held in one of two ways. *Divided*: each device has its channels, and their whole gradient.
*Whole*: all devices have the same numbers, and the same whole gradient. What is between, a whole tensor of
which each device has a part of the gradient or of the sum, lives inside one rule only:

| from | to | forward | backward |
|---|---|---|---|
| divided | whole, read by each device for its own outputs | all-gather | reduce-scatter |
| sums over each device's own inputs | divided | reduce-scatter | all-gather |
| divided | divided otherwise, or with neighbours | all-to-all | all-to-all |
| whole | read by each device for its own outputs | nothing | all-reduce |
| divided | whole | all-gather | nothing |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional

from regroup.errors import ParallelError, first_line
from regroup.ops.tags import Ints
from regroup.parallel.division import Division


@dataclass(frozen=True)
class Sent:
    """One collective.

    Attributes:
        kind: 'all-gather', 'reduce-scatter', 'all-to-all' or 'all-reduce'.
        layer: name of the module that asked for it.
        backward: whether it was the backward pass that did.
        bytes: that each device receives; on a real wire only this one's are known.
    """

    kind: str
    layer: str
    backward: bool
    bytes: tuple[int, ...]


class Wire:
    """The devices that share a network's channels, on paper: shapes and bytes, but no numbers.

    Args:
        rank: which of them this one is.
        devices: how many there are.
    """

    def __init__(self, rank: int, devices: int) -> None:
        self.rank, self.devices = rank, devices
        self.log: list[Sent] | None = []
        """What was sent; None: it is not kept."""

    def note(self, kind: str, layer: str, backward: bool, received: list[int]) -> None:
        """Keep what was sent, in bytes that each device receives."""
        if self.log is not None:
            self.log.append(Sent(kind, layer, backward, tuple(received)))

    def exchanged(self, rows: Tensor, moved: Ints, layer: str, backward: bool) -> Tensor:
        """Return the rows that come from the others, in their order.

        Args:
            rows: those to be sent, for one device after the other: (rows, ...).
            moved: rows from each device (row) to each (column).
            layer: for whom.
            backward: in which pass.
        """
        self.note("all-to-all", layer, backward, [int(n) * _width(rows) for n in moved.sum(0)])
        received = rows.new_empty((int(moved[:, self.rank].sum()), *rows.shape[1:]))
        self._all_to_all(received, rows, moved[:, self.rank].tolist(), moved[self.rank].tolist(), layer)
        return received

    def gathered(self, rows: Tensor, counts: list[int], layer: str, backward: bool) -> Tensor:
        """Return the rows of all devices, one after the other."""
        received = [(sum(counts) - own) * _width(rows) for own in counts]
        self.note("all-gather", layer, backward, received)
        result = rows.new_empty((sum(counts), *rows.shape[1:]))
        if len(set(counts)) == 1:
            self._all_gather(result, rows, layer)
        else:
            self._all_to_all(
                result, rows.repeat(self.devices, *[1] * (rows.dim() - 1)),
                counts, [counts[self.rank]] * self.devices, layer,
            )  # fmt: skip
        return result

    def summed(self, rows: Tensor, counts: list[int], layer: str, backward: bool) -> Tensor:
        """Return the sum of all devices' rows, of those rows that are this device's."""
        received = [(self.devices - 1) * own * _width(rows) for own in counts]
        self.note("reduce-scatter", layer, backward, received)
        own = counts[self.rank]
        if len(set(counts)) == 1:
            result = rows.new_empty((own, *rows.shape[1:]))
            self._reduce_scatter(result, rows, layer)
            return result
        parts = rows.new_empty((self.devices * own, *rows.shape[1:]))
        self._all_to_all(parts, rows, [own] * self.devices, counts, layer)
        return parts.unflatten(0, (self.devices, own)).sum(0)

    def total(self, tensor: Tensor, layer: str, backward: bool) -> Tensor:
        """Return the sum of all devices' tensors; each receives what a ring sends: 2 (n - 1) / n of it."""
        size = tensor.numel() * tensor.element_size()
        self.note(
            "all-reduce", layer, backward, [2 * size * (self.devices - 1) // self.devices] * self.devices
        )
        result = tensor.clone(memory_format=torch.contiguous_format)
        self._all_reduce(result, layer)
        return result

    def numbers(self, mine: int, device: torch.device) -> list[int]:
        """Return the number that each device gives; not counted, for nothing of the network is in it."""
        return [mine] * self.devices

    def told(self, text: str, device: torch.device) -> list[str]:
        """Return what each device says."""
        return [text] * self.devices

    def _all_to_all(
        self, out: Tensor, rows: Tensor, receive: list[int], send: list[int], layer: str
    ) -> None: ...

    def _all_gather(self, out: Tensor, rows: Tensor, layer: str) -> None: ...

    def _reduce_scatter(self, out: Tensor, rows: Tensor, layer: str) -> None: ...

    def _all_reduce(self, tensor: Tensor, layer: str) -> None: ...


class GroupWire(Wire):
    """The same between processes.

    Args:
        group: they.
        timeout: how long a collective may take on CPUs; on GPUs the group's own timeout counts.
    """

    def __init__(self, group: distributed.ProcessGroup, timeout: timedelta) -> None:
        super().__init__(distributed.get_rank(group), distributed.get_world_size(group))
        self.group, self.timeout = group, timeout
        self.log = None

    def __deepcopy__(self, memo: dict) -> GroupWire:
        return self  # a copy of a network lives on the same devices

    def numbers(self, mine: int, device: torch.device) -> list[int]:
        """Return the number that each process gives."""
        found = torch.empty(self.devices, dtype=torch.int64, device=device)
        self._all_gather(found, torch.tensor([mine], device=device), _AGREEMENT)
        return found.tolist()

    def told(self, text: str, device: torch.device) -> list[str]:
        """Return what each process says."""
        mine = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
        sizes = self.numbers(len(mine), device)
        found = torch.empty((self.devices, max(sizes)), dtype=torch.uint8, device=device)
        self._all_gather(found.view(-1), functional.pad(mine, (0, max(sizes) - len(mine))), _AGREEMENT)
        return [bytes(part[:n]).decode() for part, n in zip(found.cpu().numpy(), sizes, strict=True)]

    def _all_to_all(self, out: Tensor, rows: Tensor, receive: list[int], send: list[int], layer: str) -> None:
        call = distributed.all_to_all_single
        self._do(layer, call, out, rows.contiguous(), receive, send)

    def _all_gather(self, out: Tensor, rows: Tensor, layer: str) -> None:
        self._do(layer, _all_gather, out, rows.contiguous())

    def _reduce_scatter(self, out: Tensor, rows: Tensor, layer: str) -> None:
        self._do(layer, _reduce_scatter, out, rows.contiguous())

    def _all_reduce(self, tensor: Tensor, layer: str) -> None:
        self._do(layer, distributed.all_reduce, tensor)

    def _do(self, layer: str, call: Callable, *args: Any) -> None:
        """Do a collective; whoever is no longer there, or late beyond all patience, is an error here."""
        try:
            work = call(*args, group=self.group, async_op=True)
            if args[0].is_cuda:
                work.wait()  # of the stream, not of the process
            else:
                work.wait(self.timeout)
        except RuntimeError as error:
            place = f"at {layer}" if layer else "at the network's end"
            raise ParallelError(
                f"{place}, {call.__name__.strip('_')} of {self.devices} processes failed: one has ended "
                f"or not come within {self.timeout.total_seconds():g} s; its own message says why, this one: "
                f"{first_line(error).partition('. This is typically')[0]}"
            ) from error


_AGREEMENT = "their agreement"
"""What stands for a layer's name where processes ask whether they are at one."""

_NEW_NAMES = hasattr(distributed, "all_gather_single")  # since PyTorch 2.14


def _all_gather(out: Tensor, rows: Tensor, **options: Any) -> Any:
    name = "all_gather_single" if _NEW_NAMES else "all_gather_into_tensor"
    return getattr(distributed, name)(out, rows, **options)


def _reduce_scatter(out: Tensor, rows: Tensor, **options: Any) -> Any:
    name = "reduce_scatter_single" if _NEW_NAMES else "reduce_scatter_tensor"
    return getattr(distributed, name)(out, rows, **options)


def _width(rows: Tensor) -> int:
    """Return the bytes of one row."""
    return int(np.prod(rows.shape[1:])) * rows.element_size()


def _rows(tensor: Tensor, dim: int) -> Tensor:
    return tensor.movedim(dim, 0).contiguous()


def select(tensor: Tensor, dim: int, index: Ints) -> Tensor:
    """Return positions of a dimension: the tensor itself if it is all of them, a view if they follow."""
    if len(index) == tensor.shape[dim] and (index == np.arange(len(index))).all():
        return tensor
    if len(index) and (np.diff(index) == 1).all():
        return tensor.narrow(dim, int(index[0]), len(index))
    return tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))


def _inverse(order: Ints) -> Ints:
    result = np.empty_like(order)
    result[order] = np.arange(len(order))
    return result


def gather_rows(
    wire: Wire, local: Tensor, division: Division, dim: int, layer: str, backward: bool
) -> Tensor:
    """Return the whole of a divided tensor, in the order of its channels."""
    rows = wire.gathered(_rows(local, dim), division.counts, layer, backward)
    order = np.concatenate(division.held)
    return select(rows, 0, _inverse(order)).movedim(0, dim)


def _scatter_rows(wire: Wire, whole: Tensor, division: Division, layer: str, backward: bool) -> Tensor:
    rows = select(_rows(whole, 1), 0, np.concatenate(division.held))
    return wire.summed(rows, division.counts, layer, backward).movedim(0, 1)


class Gather(torch.autograd.Function):
    """Divided -> whole, whose readers each make their own outputs of it: their gradients are summed."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, wire: Wire, division: Division, layer: str) -> Tensor:
        """All-gather."""
        ctx.known = wire, division, layer
        return gather_rows(wire, local, division, 1, layer, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:  # type: ignore[override]
        """Reduce-scatter."""
        wire, division, layer = ctx.known
        return _scatter_rows(wire, grad, division, layer, True), None, None, None


class Whole(torch.autograd.Function):
    """Divided -> whole, of which all devices make the same: each has the whole gradient already."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, wire: Wire, division: Division, layer: str) -> Tensor:
        """All-gather."""
        ctx.index = division.held[wire.rank]
        return gather_rows(wire, local, division, 1, layer, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:  # type: ignore[override]
        """Take what is ours."""
        return select(grad, 1, ctx.index), None, None, None


class Scatter(torch.autograd.Function):
    """Sums over each device's inputs -> divided."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor, wire: Wire, division: Division, layer: str) -> Tensor:
        """Reduce-scatter."""
        ctx.known = wire, division, layer
        return _scatter_rows(wire, partial, division, layer, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:  # type: ignore[override]
        """All-gather."""
        wire, division, layer = ctx.known
        return gather_rows(wire, grad, division, 1, layer, True), None, None, None


class Enter(torch.autograd.Function):
    """Whole -> read by each device for its own outputs."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, wire: Wire, layer: str) -> Tensor:
        """Nothing moves."""
        ctx.known = wire, layer
        return whole.view_as(whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:  # type: ignore[override]
        """All-reduce."""
        wire, layer = ctx.known
        return wire.total(grad, layer, True), None, None


class Exchange(torch.autograd.Function):
    """Divided -> divided otherwise; a channel may go to several devices, whose gradients are summed."""

    @staticmethod
    def forward(
        ctx: Any, local: Tensor, wire: Wire, source: Division, target: Division, layer: str
    ) -> Tensor:
        """All-to-all."""
        me, (owner, place) = wire.rank, source.owners
        sent = [place[part[owner[part] == me]] if d != me else _NONE for d, part in enumerate(target.held)]
        wanted = target.held[me]
        mine = place[wanted[owner[wanted] == me]]
        order = np.argsort(np.where(owner[wanted] == me, -1, owner[wanted]), kind="stable")
        ctx.known = wire, source.moved_to(target), layer
        ctx.local, ctx.index = local.shape, (np.concatenate(sent), mine, order)
        rows = _rows(local, 1)
        moved = wire.exchanged(select(rows, 0, ctx.index[0]), ctx.known[1], layer, False)
        return select(torch.cat([select(rows, 0, mine), moved]), 0, _inverse(order)).movedim(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:  # type: ignore[override]
        """All-to-all the other way, and the sum of what comes back."""
        wire, moved, layer = ctx.known
        sent, mine, order = ctx.index
        rows = select(_rows(grad, 1), 0, order)
        back = wire.exchanged(rows[len(mine) :].contiguous(), moved.T, layer, True)
        size = ctx.local[1]
        result = grad.new_zeros((size, *ctx.local[:1], *ctx.local[2:]))
        for index, part in ((mine, rows[: len(mine)]), (sent, back)):
            result.index_add_(0, torch.from_numpy(index).to(grad.device), part)
        return result.movedim(0, 1), None, None, None, None


_NONE: Ints = np.zeros(0, np.int64)
