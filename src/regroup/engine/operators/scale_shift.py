"""Scale and shift by numbers per channel: batch normalisation at inference, arithmetic with constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regroup.engine.graph import Op, Ref, Shape, Value
from regroup.engine.operator import Elementwise
from regroup.engine.recognition import Call, known, recognises


@dataclass(frozen=True, eq=False)
class ScaleShift(Elementwise):
    """x * scale + shift, a number per channel."""

    scale: Tensor
    shift: Tensor

    word = "norm"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        shape = (-1,) + (1,) * (x.dim() - 2)
        return x * self.scale.to(x.dtype).view(shape) + self.shift.to(x.dtype).view(shape)

    def shape(self, *inputs: Shape) -> Shape:
        if not self.scale.shape == self.shift.shape == inputs[0][:1]:
            raise ValueError(f"scale {list(self.scale.shape)}, shift {list(self.shift.shape)}")
        return inputs[0]

    def letter(self, operand: Value | None, output: Value) -> str:
        return "S"

    def of(self, channels: Sequence[int]) -> ScaleShift:
        return ScaleShift(self.scale[list(channels)], self.shift[list(channels)])


@recognises("native_batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(call: Call) -> Op | None:
    constant = known(call.running_mean, call.running_var, call.weight, call.bias)
    if call.by_name.get("training") or not constant:
        return None
    scale = 1 / torch.sqrt(call.running_var.double() + call.eps)
    scale = scale if call.weight is None else scale * call.weight.double()
    shift = -call.running_mean.double() * scale
    return ScaleShift(scale, shift if call.bias is None else shift + call.bias.double())


@recognises("add.Tensor", "add.Scalar")
def _add(call: Call) -> Op | None:
    if call.alpha != 1 or known(call.self) + known(call.other) != 1:
        return None
    return _affine(call, scale=1.0, shift=call.other if isinstance(call.self, Ref) else call.self)


@recognises("sub.Tensor", "sub.Scalar")
def _sub(call: Call) -> Op | None:
    if call.alpha != 1 or known(call.self) or not known(call.other):
        return None
    return _affine(call, scale=1.0, shift=-call.other)


@recognises("mul.Tensor", "mul.Scalar")
def _mul(call: Call) -> Op | None:
    if known(call.self) + known(call.other) != 1:
        return None
    return _affine(call, scale=call.other if isinstance(call.self, Ref) else call.self, shift=0.0)


@recognises("div.Tensor", "div.Scalar")
def _div(call: Call) -> Op | None:
    if known(call.self) or not known(call.other):
        return None
    return _affine(call, scale=1 / torch.as_tensor(call.other, dtype=torch.float64), shift=0.0)


def _affine(call: Call, scale: object, shift: object) -> Op | None:
    """Scale and shift by numbers, or by tensors that have one number per channel."""
    if len(call.out) not in (1, 3) or call.inputs[0].shape != call.out:
        return None
    scales, shifts = call.per_channel(scale), call.per_channel(shift)
    return None if scales is None or shifts is None else ScaleShift(scales, shifts)
