"""Concatenation: of channels no work, for its inputs are put beside one another; of rows a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regroup.engine.graph import Node, Ref, Shape
from regroup.engine.operator import Alias, Operator
from regroup.engine.placing.places import Place
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, Found, recognises
from regroup.kernels import problems as kernels
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.templates.halo import Zeros


@dataclass(frozen=True, eq=False)
class Concat(Alias):
    """Channels of all inputs, one after another."""

    arity = None
    joins = True

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, 1)

    def shape(self, *inputs: Shape) -> Shape:
        if len({tuple(pixels) for _, *pixels in inputs}) != 1:
            raise ValueError("images of several sizes")
        return (sum(channels for channels, *_ in inputs), *inputs[0][1:])

    def place(self, node: Node, places: Sequence[Place]) -> Place:
        return Place(places[0].slab, sum((place.channels for place in places), ()))


@dataclass(frozen=True, eq=False)
class ConcatPixels(Operator):
    """Rows (axis 0) or columns (axis 1) of all images, one after another."""

    axis: int

    arity = None
    word = "concat"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, 2 + self.axis)

    def shape(self, *inputs: Shape) -> Shape:
        if len({(c, h) if self.axis else (c, w) for c, h, w in inputs}) != 1:
            raise ValueError("images that do not fit beside one another")
        channels, *sides = inputs[0]
        sides[self.axis] = sum(image[1 + self.axis] for image in inputs)
        return (channels, *sides)

    def lower(self, node: Node, tasks: Tasks) -> None:
        y = tasks.settle(node, tuple(range(node.output.shape[0])))
        if y.slab.halo:  # no part is the whole, and knows what lies around
            tasks.add("zeros around", (), y, lambda: Zeros(y.view(), y.view()))
        start = 0
        for value in node.inputs:
            x, size = tasks.place(value), value.shape[1 + self.axis]

            def problem(x: Place = x, start: int = start, size: int = size) -> kernels.Problem:
                return kernels.Pointwise(x.view(), self._part(y.view(), start, size), order=x.order)

            tasks.add(node.op.word, (x,), y, problem, {}, node)
            start += size

    def _part(self, view: View, start: int, size: int) -> View:
        pitch = view.pixel_pitch if self.axis else view.row_pitch
        sides = {"width": size} if self.axis else {"height": size}
        return replace(view, **sides, halo=Halo(), offset=view.offset + start * pitch)


@recognises("cat")
def _cat(call: Call) -> Found | None:
    dim, parts = call.dim if call.dim >= 0 else call.dim + len(call.out) + 1, call.tensors
    alike = all(isinstance(part, Ref) and len(call.shape(part)) == len(call.out) for part in parts)
    if not alike or len(call.out) not in (1, 3) or dim == 0:
        return None
    return Found(Concat() if dim == 1 else ConcatPixels(dim - 2), parts)
