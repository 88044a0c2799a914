"""Pixels in other places: slices, flips, rolls, splits of the image, pads of every mode are one `Pixels`.

How they are recognised: operators that only move pixels are applied to the numbers of the pixels instead of
to an image. What comes out says where each pixel comes from, whatever the operator's arguments mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regroup.engine.graph import Graph, Node, Ref, Shape, Value
from regroup.engine.operator import Operator
from regroup.engine.operators.select import Select
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import name_of, recognises_several, replace_movements
from regroup.kernels import problems as kernels

MOVES: dict[str, Callable[[list], Sequence[int]]] = {
    "constant_pad_nd": lambda args: range(4 - len(args[1]) // 2, 4),
    "flip": lambda args: args[1],
    "index_select": lambda args: args[1:2],
    "reflection_pad2d": lambda args: (2, 3),
    "replication_pad2d": lambda args: (2, 3),
    "roll": lambda args: args[2] if len(args) > 2 else (),
    "slice_copy.Tensor": lambda args: args[1:2],
    "split_copy.Tensor": lambda args: args[2:3],
    "split_with_sizes_copy": lambda args: args[2:3],
}
"""Operators of PyTorch's that move pixels, or fill with a constant, and along which dimensions."""


@dataclass(frozen=True, eq=False)
class Pixels(Operator):
    """Pixel (i, j) is pixel (rows[i], columns[j]) of the input; `value` where either is negative."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    value: float = 0.0

    def evaluate(self, *inputs: Tensor) -> Tensor:
        rows, columns = torch.tensor(self.rows), torch.tensor(self.columns)
        found = inputs[0][:, :, rows.clamp(min=0)][..., columns.clamp(min=0)]
        there = (rows >= 0)[:, None] & (columns >= 0)
        return torch.where(there, found, self.value)

    def shape(self, *inputs: Shape) -> Shape:
        channels, height, width = inputs[0]
        if max(self.rows) >= height or max(self.columns) >= width:
            raise ValueError(f"rows up to {max(self.rows)}, columns up to {max(self.columns)}")
        return (channels, len(self.rows), len(self.columns))

    def lower(self, node: Node, tasks: Tasks) -> None:
        where = self.rows, self.columns, self.value
        tasks.by_channel(node, lambda x, y: kernels.Pick(x.view(), y.view(), *where))


@dataclass(frozen=True)
class _MovedPixels:
    """A tensor whose pixels are those of `image` with the numbers `rows` and `columns`."""

    image: Value
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    value: float = 0.0

    @property
    def op(self) -> Select | Pixels:
        """What makes it of its image."""
        channels, height, width = self.image.shape
        if self.rows == tuple(range(height)) and self.columns == tuple(range(width)):
            return Select(tuple(range(channels)))
        return Pixels(self.rows, self.columns, self.value)

    @property
    def numbers(self) -> Tensor:
        """The number of every pixel, as an image of one channel."""
        rows, columns = (torch.tensor(of, dtype=torch.float64) for of in (self.rows, self.columns))
        return (rows[:, None] * self.image.shape[2] + columns)[None, None]


@recognises_several
def recognise_moved_pixels(graph: Graph) -> None:
    """Replace movements of pixels by `Pixels` of the image where they began; what is between dies unread."""
    replace_movements(graph, _follow)


def _follow(node: Node, moved: dict[Value, _MovedPixels]) -> list[_MovedPixels] | None:
    """Return where the pixels of the outputs come from, or None if `node` does something else."""
    if name_of(node) not in MOVES or len(node.inputs) != 1 or _is_zeros_around(node):
        return None
    source = node.inputs[0]
    if not all(v.native and v.per == source.per and len(v.shape) == 3 for v in (source, *node.outputs)):
        return None
    _, height, width = source.shape
    along = [dim % 4 for dim in MOVES[name_of(node)](list(node.op.args))]
    if not along or not set(along) <= {2, 3}:
        return None  # it moves channels or images, or does not say what
    start = moved.get(source)
    if start is None or min(start.rows + start.columns) < 0:  # a constant has no number to move
        start = _MovedPixels(source, tuple(range(height)), tuple(range(width)))
    value = float(node.op.args[2]) if name_of(node) == "constant_pad_nd" and len(node.op.args) > 2 else 0.0
    args = [start.numbers if isinstance(arg, Ref) else arg for arg in node.op.args]
    if name_of(node) == "constant_pad_nd":
        args[2:] = [-1.0]
    result = node.op.function(*args, **node.op.kwargs)
    found = [_read(start.image, r, value) for r in ([result] if isinstance(result, Tensor) else result)]
    whole = [moved for moved in found if moved is not None]
    return whole if len(whole) == len(found) else None


def _is_zeros_around(node: Node) -> bool:
    """Tell whether it is the padding that convolutions read by themselves (`operators/pad.py`)."""
    if name_of(node) != "constant_pad_nd":
        return False
    return (len(node.op.args) < 3 or node.op.args[2] == 0) and min(node.op.args[1], default=0) >= 0


def _read(image: Value, numbers: Tensor, value: float) -> _MovedPixels | None:
    """Return where the pixels with these numbers come from; -1 is the constant."""
    if not numbers.numel():
        return None
    plane, width = numbers[0, 0].long(), image.shape[2]
    rows = torch.where(plane < 0, -1, plane // width).amax(1)
    columns = torch.where(plane < 0, -1, plane % width).amax(0)
    found = _MovedPixels(image, tuple(rows.tolist()), tuple(columns.tolist()), value)
    there = (rows >= 0)[:, None] & (columns >= 0)
    assert torch.equal(torch.where(there, found.numbers, -1.0), numbers), (
        "not row by row and column by column"
    )
    return found
