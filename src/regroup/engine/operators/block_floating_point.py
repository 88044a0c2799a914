"""Block floating point: the channels of a pixel share an exponent, block by block (DSConv's activations)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regroup.engine.graph import Node, Op, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, recognises
from regroup.kernels import problems as kernels
from regroup.ops.shifted import ShiftedForm


@dataclass(frozen=True, eq=False)
class BlockFloatingPoint(Operator):
    """Numbers of `mantissa` bits; each `block` channels of a group share an exponent of `exponent` bits."""

    block: int
    mantissa: int
    exponent: int
    groups: int = 1

    word = "block floating point"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        form = ShiftedForm(block=self.block, mantissa=self.mantissa, exponent=self.exponent)
        return form.activations(inputs[0], self.groups)

    def shape(self, *inputs: Shape) -> Shape:
        if inputs[0][0] % self.groups:
            raise ValueError(f"{self.groups} groups")
        return inputs[0]

    def lower(self, node: Node, tasks: Tasks) -> None:
        blocks = kernels.Blocks(node.output.shape[0], self.block, self.mantissa, self.exponent, self.groups)
        tasks.in_order(node, lambda x, y: kernels.BlockFloatingPoint(x.view(), y.view(), blocks))


@recognises("regroup::block_floating_point")
def _block_floating_point(call: Call) -> Op | None:
    if len(call.out) != 3:
        return None
    return BlockFloatingPoint(call.block, call.mantissa, call.exponent, call.groups)
