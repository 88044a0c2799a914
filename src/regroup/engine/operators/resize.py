"""Resizing by the nearest pixel or by two in each direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regroup.engine.graph import Node, Pair, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, pair, recognises
from regroup.kernels import problems as kernels

_aten = torch.ops.aten

_MODES = {
    "nearest": "upsample_nearest2d",
    "nearest-exact": "_upsample_nearest_exact2d",
    "bilinear": "upsample_bilinear2d",
}
"""PyTorch's operator of each mode."""


@dataclass(frozen=True, eq=False)
class Resize(Operator):
    """To `size` by "nearest", "nearest-exact" or "bilinear".

    `scale` has the factors that the user gave, None where there was none: PyTorch goes by them then.
    """

    size: Pair
    mode: str
    align_corners: bool = False
    scale: tuple[float | None, float | None] = (None, None)

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,), size = inputs, list(self.size)
        if self.mode == "bilinear":
            return _aten.upsample_bilinear2d.default(x, size, self.align_corners, *self.scale)
        nearest = getattr(_aten, _MODES[self.mode]).default
        if x.dtype != torch.float64:
            return nearest(x, size, *self.scale)
        # PyTorch finds the source of a pixel in the precision of its tensors; the network's is float32
        numbers = torch.arange(float(x.shape[2] * x.shape[3]), dtype=torch.float32).view(1, 1, *x.shape[2:])
        sources = nearest(numbers, size, *self.scale).flatten().long()
        return x.flatten(2)[..., sources].unflatten(2, self.size)

    def shape(self, *inputs: Shape) -> Shape:
        return (inputs[0][0], *self.size)

    def lower(self, node: Node, tasks: Tasks) -> None:
        how = {"mode": self.mode, "align_corners": self.align_corners, "scale": self.scale}
        tasks.by_channel(node, lambda x, y: kernels.Resize(x.view(), y.view(), **how))


@recognises(*_MODES.values())
def _resize(call: Call) -> Resize:
    mode = next(mode for mode, name in _MODES.items() if call.name == f"aten::{name}")
    corners = call.by_name.get("align_corners", False)
    return Resize(pair(call.output_size), mode, corners, (call.scales_h, call.scales_w))
