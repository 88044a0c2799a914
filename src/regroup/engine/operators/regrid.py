"""The pixels of an image in rows of another length, one after another as before: tokens and back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from regroup.engine.graph import Node, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.tasks import Tasks
from regroup.kernels import problems as kernels
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.templates.halo import Zeros


@dataclass(frozen=True, eq=False)
class Regrid(Operator):
    """Rows of `width` pixels; either before or afterwards there is one row only."""

    height: int
    width: int

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(*inputs[0].shape[:2], self.height, self.width)

    def shape(self, *inputs: Shape) -> Shape:
        channels, height, width = inputs[0]
        if height * width != self.height * self.width or 1 not in (height, self.height):
            raise ValueError(f"{height} x {width} pixels as {self.height} x {self.width}")
        return (channels, self.height, self.width)

    def lower(self, node: Node, tasks: Tasks) -> None:
        x, y = tasks.place(node.inputs[0]), tasks.settle(node, tuple(range(node.output.shape[0])))
        if y.slab.halo:  # what is written does not know what lies around
            tasks.add("zeros around", (), y, lambda: Zeros(y.view(), y.view()))
        _, height, width = node.inputs[0].shape

        def problem() -> kernels.Problem:
            if height == 1:
                source, target = _cut(x.view(), self.height, self.width), replace(y.view(), halo=Halo())
            else:
                source, target = x.view(), _cut(y.view(), height, width)
            return kernels.Pointwise(source, target, order=x.order)

        tasks.add(node.op.word, (x,), y, problem, {}, node)


def _cut(row: View, height: int, width: int) -> View:
    """Return the view of one row as one of several."""
    return replace(row, height=height, width=width, row_pitch=width * row.pixel_pitch, halo=Halo())
