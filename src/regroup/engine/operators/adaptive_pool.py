"""Pooling to a given size; to one pixel it is the global mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Node, Op, Pair, Shape
from regroup.engine.operator import Operator
from regroup.engine.operators.reshape import Reshape
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, Found, pair, recognises
from regroup.kernels import problems as kernels


@dataclass(frozen=True, eq=False)
class AdaptivePool(Operator):
    """Average ("avg") or maximum ("max") over `size` windows that cover the image; (1, 1) is global."""

    size: Pair
    kind: str = "avg"

    word = "pool"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return (F.adaptive_avg_pool2d if self.kind == "avg" else F.adaptive_max_pool2d)(inputs[0], self.size)

    def shape(self, *inputs: Shape) -> Shape:
        return (inputs[0][0], *self.size)

    def lower(self, node: Node, tasks: Tasks) -> None:
        kind = "max" if self.kind == "max" else "average"
        tasks.by_channel(node, lambda x, y: kernels.AdaptivePool(x.view(), y.view(), kind=kind))


@recognises("mean.dim")
def _mean(call: Call) -> Op | Found | None:
    image = call.inputs[0].shape
    dims = sorted(d % (len(image) + 1) for d in call.dim or ())
    if len(image) != 3 or dims != [2, 3] or call.dtype is not None:
        return None
    mean = AdaptivePool((1, 1))
    return mean if len(call.out) == 3 else Found(mean, then=(Reshape(call.out),))


@recognises("_adaptive_avg_pool2d")
def _average(call: Call) -> Op | None:
    return AdaptivePool(pair(call.output_size)) if len(call.out) == 3 else None


@recognises("adaptive_max_pool2d")
def _maximum(call: Call) -> Op | None:
    return AdaptivePool(pair(call.output_size), "max") if len(call.out) == 3 else None
