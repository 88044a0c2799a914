"""Pooling to a given size; to one pixel it is the global mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Node, Op, Pair, Shape
from regroup.engine.operator import Operator
from regroup.engine.operators.reshape import Reshape
from regroup.engine.operators.scale_shift import ScaleShift
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


@recognises("mean.dim", "sum.dim_IntList", "amax", "max.dim")
def _over_pixels(call: Call) -> Op | Found | None:
    """Over rows, columns or both; a sum is a mean times their number."""
    image, dims = call.inputs[0].shape, call.dim if isinstance(call.dim, (list, tuple)) else (call.dim,)
    dims = {d % (len(image) + 1) for d in dims or ()}
    if len(image) != 3 or not dims or dims - {2, 3} or call.by_name.get("dtype") is not None:
        return None
    if len(call.out) != 3 and dims != {2, 3}:
        return None
    size = (1 if 2 in dims else image[1], 1 if 3 in dims else image[2])
    pool = AdaptivePool(size, "max" if "max" in call.name else "avg")
    then: list[Op] = [] if len(call.out) == 3 else [Reshape(call.out)]
    if "sum" in call.name:
        count = image[1] * image[2] / (size[0] * size[1])
        then.insert(0, ScaleShift(torch.full(image[:1], count, dtype=torch.float64), torch.zeros(image[0])))
    return Found(pool, then=then)


@recognises("_adaptive_avg_pool2d")
def _average(call: Call) -> Op | None:
    return AdaptivePool(pair(call.output_size)) if len(call.out) == 3 else None


@recognises("adaptive_max_pool2d")
def _maximum(call: Call) -> Op | None:
    return AdaptivePool(pair(call.output_size), "max") if len(call.out) == 3 else None
