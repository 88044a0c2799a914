"""The sum of two tensors: residuals, and what is taken up from a lower resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Op, Ref, Shape, Value
from regroup.engine.operator import Elementwise
from regroup.engine.recognition import Call, Found, recognises


@dataclass(frozen=True, eq=False)
class Add(Elementwise):
    """The sum of two values; with `scale` 2 the second is half as large, and each of its pixels is four."""

    scale: int = 1

    arity = 2

    def evaluate(self, *inputs: Tensor) -> Tensor:
        x, y = inputs
        return x + (y if self.scale == 1 else F.interpolate(y, scale_factor=self.scale, mode="nearest"))

    def shape(self, *inputs: Shape) -> Shape:
        (channels, *pixels), (others, *small) = inputs
        if channels != others or pixels != [self.scale * size for size in small]:
            raise ValueError(f"the second at 1/{self.scale} of the size")
        return inputs[0]

    def letter(self, operand: Value | None, output: Value) -> str:
        return "A"


@recognises("add.Tensor", "add.Scalar")
def _add(call: Call) -> Op | Found | None:
    if call.alpha != 1 or not (isinstance(call.self, Ref) and isinstance(call.other, Ref)):
        return None
    same = call.shape(call.self) == call.shape(call.other) == call.out and len(call.out) in (1, 3)
    return Found(Add(), (call.self, call.other)) if same else None
