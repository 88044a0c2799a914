"""Zeros around an image: a copy into a frame, where no convolution reads them by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Node, Op, Padding, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, recognises
from regroup.kernels import problems as kernels
from regroup.kernels.problems.view import Halo, View


@dataclass(frozen=True, eq=False)
class Pad(Operator):
    """Zeros around the image."""

    padding: Padding

    def evaluate(self, *inputs: Tensor) -> Tensor:
        top, bottom, left, right = self.padding
        return F.pad(inputs[0], (left, right, top, bottom))

    def shape(self, *inputs: Shape) -> Shape:
        (channels, height, width), (top, bottom, left, right) = inputs[0], self.padding
        return (channels, height + top + bottom, width + left + right)

    def lower(self, node: Node, tasks: Tasks) -> None:
        x = tasks.place(node.inputs[0])
        y = tasks.settle(node, tuple(range(node.output.shape[0])))
        tasks.add(
            node.op.word,
            (x,),
            y,
            lambda: kernels.Pointwise(x.view(), _inside(y.view(), self.padding), order=x.order),
            {},
            node,
        )


def _inside(view: View, padding: Padding) -> View:
    """Return the image within a padded one; the zeros around it become its halo."""
    top, bottom, left, right = padding
    old = view.halo
    return replace(
        view,
        height=view.height - top - bottom,
        width=view.width - left - right,
        halo=Halo(old.top + top, old.left + left, old.bottom + bottom, old.right + right),
        offset=view.offset + top * view.row_pitch + left * view.pixel_pitch,
    )


@recognises("constant_pad_nd")
def _pad(call: Call) -> Op | None:
    left, right, top, bottom, *rest = (*call.pad, 0, 0, 0, 0)
    zero = call.value == 0 and not any(rest) and min(call.pad) >= 0
    return Pad((top, bottom, left, right)) if zero and len(call.out) == 3 else None
