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
    """Average ("avg") or maximum ("max") over `size` windows that cover the image; (1, 1) is global.

    A "sum" is over whole rows, columns or both: each of `size` is 1 or that of the image.
    """

    size: Pair
    kind: str = "avg"

    word = "pool"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        if self.kind == "sum":
            whole = [2 + axis for axis in (0, 1) if self.size[axis] == 1]
            return inputs[0].sum(whole, keepdim=True) if whole else inputs[0]
        return (F.adaptive_avg_pool2d if self.kind == "avg" else F.adaptive_max_pool2d)(inputs[0], self.size)

    def shape(self, *inputs: Shape) -> Shape:
        return (inputs[0][0], *self.size)

    def lower(self, node: Node, tasks: Tasks) -> None:
        kind = {"avg": "average"}.get(self.kind, self.kind)
        tasks.by_channel(node, lambda x, y: kernels.AdaptivePool(x.view(), y.view(), kind=kind))


@recognises("mean.dim", "sum.dim_IntList", "amax", "max.dim")
def _over_pixels(call: Call) -> Op | Found | None:
    """Over rows, columns or both."""
    image, dims = call.inputs[0].shape, call.dim if isinstance(call.dim, (list, tuple)) else (call.dim,)
    dims = {d % (len(image) + 1) for d in dims or ()}
    if len(image) != 3 or not dims or dims - {2, 3} or call.by_name.get("dtype") is not None:
        return None
    if len(call.out) != 3 and dims != {2, 3}:
        return None
    size = (1 if 2 in dims else image[1], 1 if 3 in dims else image[2])
    kind = {"mean.dim": "avg", "sum.dim_IntList": "sum"}.get(call.name.removeprefix("aten::"), "max")
    pool = AdaptivePool(size, kind)
    return pool if len(call.out) == 3 else Found(pool, then=(Reshape(call.out),))


@recognises("_adaptive_avg_pool2d")
def _average(call: Call) -> Op | None:
    return AdaptivePool(pair(call.output_size)) if len(call.out) == 3 else None


@recognises("adaptive_max_pool2d")
def _maximum(call: Call) -> Op | None:
    return AdaptivePool(pair(call.output_size), "max") if len(call.out) == 3 else None
