"""Channel orders: view-transpose-view, split, chunk, slice, index-select are one `Select`, and no work.

How they are recognised: operators that only move channels are applied to the numbers of the channels instead
of to an image. A tensor between them, like the (groups, width, h, w) inside a shuffle, is an image's channels
under another shape: `_MovedChannels`. Whatever ends as (channels, height, width) again is a `Select` of the
image it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regroup.engine.graph import Graph, Node, Op, Ref, Shape, Torch, Value
from regroup.engine.operator import Alias
from regroup.engine.placing.places import Place
from regroup.engine.recognition import Call, known, recognises, recognises_several, replace_movements


@dataclass(frozen=True, eq=False)
class Select(Alias):
    """A channel order: output channel i is input channel `channels[i]` (shuffle, split, index-select)."""

    channels: tuple[int, ...]

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0][:, torch.tensor(self.channels, dtype=torch.int64)]

    def shape(self, *inputs: Shape) -> Shape:
        count, *pixels = inputs[0]
        if not all(0 <= c < count for c in self.channels):
            raise ValueError(f"channels {self.channels}")
        return (len(self.channels), *pixels)

    def place(self, node: Node, places: Sequence[Place]) -> Place:
        return places[0].select(self.channels)

    def moved(self, channels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(channels[c] for c in self.channels)


@recognises("index_select")
def _index_select(call: Call) -> Op | None:
    """Of a vector; what it is on images has been found before."""
    vector = len(call.out) == 1 and call.dim in (1, -1) and known(call.index)
    return Select(tuple(call.index.tolist())) if vector else None


@dataclass(frozen=True)
class _MovedChannels:
    """A tensor whose leading dimensions hold the channels `numbers` of `image`, pixels untouched."""

    image: Value
    numbers: Tensor

    @property
    def op(self) -> Select | None:
        """What makes it of its image, if it is an image itself."""
        return Select(tuple(self.numbers.tolist())) if self.numbers.dim() == 1 else None


@recognises_several
def recognise_channel_orders(graph: Graph) -> None:
    """Replace the last operator of every movement of channels by a `Select`; the rest dies unread."""
    replace_movements(graph, _follow)


def _follow(node: Node, moved: dict[Value, _MovedChannels]) -> list[_MovedChannels] | None:
    """Return what the outputs are in terms of channels, or None if `node` does something else."""
    if not isinstance(node.op, Torch) or len(node.inputs) != 1 or not node.inputs[0].native:
        return None
    source, move = node.inputs[0], MOVES.get(node.op.function.name())
    if move is None or not all(_keeps_pixels(source, value) for value in node.outputs):
        return None
    start = moved.get(source)
    if start is None:
        if len(source.shape) != 3:
            return None
        start = _MovedChannels(source, torch.arange(source.shape[0]))
    # pixels as 1 x 1: what moves them or mixes them with channels fails here or is not listed below
    stand_in = start.numbers.unsqueeze(0)[..., None, None]
    args = [stand_in if isinstance(arg, Ref) else arg for arg in node.op.args]
    result = move(node, args)
    if result is None:
        return None
    return [_MovedChannels(start.image, numbers[0, ..., 0, 0]) for numbers in result]


def _keeps_pixels(source: Value, value: Value) -> bool:
    return (
        value.native
        and value.per == source.per
        and len(value.shape) >= 3
        and value.shape[-2:] == source.shape[-2:]
    )


def _view(node: Node, args: list) -> list[Tensor]:
    return [args[0].reshape(1, *node.output.shape[:-2], 1, 1)]


def _along_channels(*, dims: Callable[[list], list[int]]) -> Callable[[Node, list], list[Tensor] | None]:
    """Run the operator itself if the dimensions that it names are neither the batch nor the pixels."""

    def run(node: Node, args: list) -> list[Tensor] | None:
        rank = args[0].dim()
        if any(not 0 < dim % rank < rank - 2 for dim in dims(args)):
            return None
        result = node.op.function(*args, **node.op.kwargs)
        return [result] if isinstance(result, Tensor) else list(result)

    return run


def _permute(node: Node, args: list) -> list[Tensor] | None:
    rank = args[0].dim()
    order = [dim % rank for dim in args[1]]
    fixed = (order[0], *order[-2:]) == (0, rank - 2, rank - 1)
    return [args[0].permute(order)] if fixed else None


def _index(node: Node, args: list) -> list[Tensor] | None:
    first, *rest = args[1]
    channels_only = first is None and len(rest) == 1 and isinstance(rest[0], Tensor)
    return [args[0][:, rest[0]]] if channels_only and args[0].dim() == 4 and rest[0].dim() == 1 else None


def _shuffle(node: Node, args: list) -> list[Tensor] | None:
    return [node.op.function(*args)] if args[0].dim() == 4 else None


def _second(args: list) -> list[int]:
    return [args[1] if len(args) > 1 else 0]


def _third(args: list) -> list[int]:
    return [args[2] if len(args) > 2 else 0]


MOVES: dict[str, Callable[[Node, list], list[Tensor] | None]] = {
    "aten::reshape": _view,
    "aten::clone": lambda node, args: [args[0]],
    "aten::alias_copy": lambda node, args: [args[0]],
    "aten::permute_copy": _permute,
    "aten::index.Tensor": _index,
    "aten::channel_shuffle": _shuffle,
    "aten::native_channel_shuffle": _shuffle,
    "aten::transpose_copy.int": _along_channels(dims=lambda args: args[1:3]),
    "aten::slice_copy.Tensor": _along_channels(dims=_second),
    "aten::index_select": _along_channels(dims=_second),
    "aten::select_copy.int": _along_channels(dims=_second),
    "aten::unbind_copy.int": _along_channels(dims=_second),
    "aten::flip": _along_channels(dims=lambda args: args[1]),
    "aten::split_copy.Tensor": _along_channels(dims=_third),
    "aten::split_with_sizes_copy": _along_channels(dims=_third),
}
"""By the names of the operators; the tests sweep whatever is here."""
