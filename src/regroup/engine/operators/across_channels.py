"""Mean, sum and maximum over the channels of each pixel: what spatial attention looks at (CBAM)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regroup.engine.graph import Node, Op, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, recognises
from regroup.kernels import problems as kernels

_KINDS = {"mean.dim": "average", "sum.dim_IntList": "sum", "amax": "max", "max.dim": "max"}


@dataclass(frozen=True, eq=False)
class AcrossChannels(Operator):
    """One channel of all: their "average", "sum" or "max"."""

    kind: str

    @property
    def word(self) -> str:  # type: ignore[bad-override]
        """Like 'max over channels'."""
        return f"{self.kind} over channels"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self.kind == "max":
            return x.amax(1, keepdim=True)
        return (x.mean if self.kind == "average" else x.sum)(1, keepdim=True)

    def shape(self, *inputs: Shape) -> Shape:
        return (1, *inputs[0][1:])

    def lower(self, node: Node, tasks: Tasks) -> None:
        x = tasks.aligned(node.inputs[0], tuple(range(node.inputs[0].shape[0])))
        y = tasks.settle(node, (0,))
        tasks.add(
            node.op.word, (x,), y, lambda: kernels.AcrossChannels(x.view(), y.view(), self.kind), {}, node
        )


@recognises(*_KINDS)
def _across(call: Call) -> Op | None:
    dims = call.dim if isinstance(call.dim, (list, tuple)) else (call.dim,)
    image = len(call.inputs[0].shape) == len(call.out) == 3
    if not image or [d % 4 for d in dims or ()] != [1] or call.by_name.get("dtype") is not None:
        return None
    return AcrossChannels(_KINDS[call.name.removeprefix("aten::")])
