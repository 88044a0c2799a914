"""Softmax over the features of a vector."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regroup.engine.graph import Node, Op, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, recognises
from regroup.kernels import problems as kernels


@dataclass(frozen=True, eq=False)
class Softmax(Operator):
    """Over all features of a vector."""

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].flatten(1).softmax(1).view_as(inputs[0])

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def lower(self, node: Node, tasks: Tasks) -> None:
        tasks.in_order(node, lambda x, y: kernels.Softmax(x.view(), y.view()))


@recognises("_softmax")
def _softmax(call: Call) -> Op | None:
    return Softmax() if len(call.out) == 1 and call.dim in (1, -1) and not call.half_to_float else None
