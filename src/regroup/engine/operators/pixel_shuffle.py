"""Channels as pixels and back: `torch.nn.PixelShuffle` and `PixelUnshuffle`, copies between views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Node, Op, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.places import Place
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, recognises
from regroup.kernels import problems as kernels
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.templates.halo import Zeros


@dataclass(frozen=True, eq=False)
class PixelShuffle(Operator):
    """Channel (c, i, j) at pixel (y, x) goes to channel c at pixel (y * factor + i, x * factor + j)."""

    factor: int

    word = "pixel shuffle"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return F.pixel_shuffle(inputs[0], self.factor)

    def shape(self, *inputs: Shape) -> Shape:
        (channels, height, width), factor = inputs[0], self.factor
        if channels % factor**2:
            raise ValueError(f"{channels} channels")
        return (channels // factor**2, height * factor, width * factor)

    def wishes(self, channels: Sequence[int], target: Target) -> dict[int, tuple[int, ...]]:
        each = self.factor**2
        return {c: (channels[c] % each, channels[c] // each) for c in range(len(channels))}

    def lower(self, node: Node, tasks: Tasks) -> None:
        x, y = tasks.place(node.inputs[0]), tasks.settle(node, tuple(range(node.output.shape[0])))
        if y.slab.halo:  # no part is the whole, and knows what lies around
            tasks.add("zeros around", (), y, lambda: Zeros(y.view(), y.view()))
        for i, j in product(range(self.factor), repeat=2):
            own = x.select(tuple(range(i * self.factor + j, len(x.channels), self.factor**2)))

            def problem(own: Place = own, i: int = i, j: int = j) -> kernels.Problem:
                return kernels.Pointwise(own.view(), every(y.view(), self.factor, i, j), order=own.order)

            tasks.add(node.op.word, (own,), y, problem, {}, node)


@dataclass(frozen=True, eq=False)
class PixelUnshuffle(Operator):
    """Channel c at pixel (y * factor + i, x * factor + j) goes to channel (c, i, j) at pixel (y, x)."""

    factor: int

    word = "pixel unshuffle"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return F.pixel_unshuffle(inputs[0], self.factor)

    def shape(self, *inputs: Shape) -> Shape:
        (channels, height, width), factor = inputs[0], self.factor
        if height % factor or width % factor:
            raise ValueError(f"{height} x {width} pixels")
        return (channels * factor**2, height // factor, width // factor)

    def lower(self, node: Node, tasks: Tasks) -> None:
        x, count, each = tasks.place(node.inputs[0]), node.inputs[0].shape[0], self.factor**2
        y = tasks.settle(node, tuple(c * each + part for part in range(each) for c in range(count)))
        for part, (i, j) in enumerate(product(range(self.factor), repeat=2)):
            start = y.first + part * count
            own = Place(y.slab, tuple(range(start, start + count)))

            def problem(own: Place = own, i: int = i, j: int = j) -> kernels.Problem:
                return kernels.Pointwise(every(x.view(), self.factor, i, j), own.view(), order=x.order)

            tasks.add(node.op.word, (x,), own, problem, {}, node)


def every(view: View, factor: int, row: int, column: int) -> View:
    """Return every `factor`-th row and column of a view, from (`row`, `column`) on."""
    return replace(
        view,
        height=view.height // factor,
        width=view.width // factor,
        row_pitch=view.row_pitch * factor,
        pixel_pitch=view.pixel_pitch * factor,
        halo=Halo(),
        offset=view.offset + row * view.row_pitch + column * view.pixel_pitch,
    )


@recognises("pixel_shuffle")
def _shuffle(call: Call) -> Op | None:
    return PixelShuffle(call.upscale_factor) if len(call.out) == 3 else None


@recognises("pixel_unshuffle")
def _unshuffle(call: Call) -> Op | None:
    return PixelUnshuffle(call.downscale_factor) if len(call.out) == 3 else None
