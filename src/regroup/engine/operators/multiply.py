"""The product of two tensors: gates of squeeze-and-excitation, products number by number, squares."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regroup.engine.graph import Ref, Shape, Value
from regroup.engine.operator import Elementwise
from regroup.engine.recognition import Call, Found, recognises


@dataclass(frozen=True, eq=False)
class Multiply(Elementwise):
    """The product of two values; the second may be a gate of shape (channels, 1, 1)."""

    arity = 2
    word = "gate"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[1]

    def shape(self, *inputs: Shape) -> Shape:
        x, y = inputs
        if y not in (x, (x[0], 1, 1)):
            raise ValueError("the second neither as large nor a gate")
        return x

    def letter(self, operand: Value | None, output: Value) -> str:
        assert operand is not None
        return "F" if operand.shape == output.shape else "G"


@recognises("mul.Tensor", "mul.Scalar")
def _mul(call: Call) -> Found | None:
    if not (isinstance(call.self, Ref) and isinstance(call.other, Ref)) or len(call.out) not in (1, 3):
        return None
    for x, y in ((call.self, call.other), (call.other, call.self)):
        gate = len(call.out) == 3 and call.shape(y) == (call.out[0], 1, 1)
        if call.shape(x) == call.out and (gate or call.shape(y) == call.out):
            return Found(Multiply(), (x, y))
    return None


@recognises("pow.Tensor_Scalar")
def _square(call: Call) -> Found | None:
    return (
        Found(Multiply(), (call.self, call.self)) if call.exponent == 2 and len(call.out) in (1, 3) else None
    )
