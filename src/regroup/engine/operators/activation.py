"""Activation functions, clamps among them, and PReLU, whose slopes are numbers per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan

import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Op, Ref, Value
from regroup.engine.operator import Elementwise
from regroup.engine.recognition import Call, known, recognises
from regroup.kernels.problems.fused import clamp, elu, leaky_relu, parsed, softplus


@dataclass(frozen=True, eq=False)
class Activate(Elementwise):
    """An activation function.

    Attributes:
        kind: what kernels call it (`regroup.kernels.problems.fused`), or "prelu".
        slope: of "prelu", a number per channel.
    """

    kind: str
    slope: Tensor | None = None

    @property
    def word(self) -> str:
        return self.kind

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self.slope is not None:
            return torch.where(x > 0, x, x * self.slope.to(x.dtype).view(-1, *[1] * (x.dim() - 2)))
        name, numbers = parsed(self.kind)
        if name == "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        if name == "elu":  # F.elu has no scales
            return torch.ops.aten.elu(x, *numbers)
        return getattr(torch if name in ("sigmoid", "tanh", "clamp") else F, name)(x, *numbers)

    def letter(self, operand: Value | None, output: Value) -> str:
        return "a" if self.slope is None else "p"

    def of(self, channels: Sequence[int]) -> Activate:
        return self if self.slope is None else Activate(self.kind, self.slope[list(channels)])


for _kind in ("relu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "mish"):
    recognises(_kind)(lambda call, kind=_kind: Activate(kind))


@recognises("hardtanh", "clamp", "clamp_min", "clamp_max")
def _clamp(call: Call) -> Op | None:
    bounds = [call.by_name.get(f"{side}_val", call.by_name.get(side)) for side in ("min", "max")]
    low, high = (end if n is None else float(n) for n, end in zip(bounds, (-inf, inf), strict=True))
    if isnan(low) or isnan(high):
        return None
    usual = {(0.0, inf): "relu", (0.0, 6.0): "relu6"}
    return Activate(usual.get((low, high)) or clamp(low, high))


@recognises("leaky_relu")
def _leaky_relu(call: Call) -> Op | None:
    return Activate(leaky_relu(call.negative_slope))


@recognises("_prelu_kernel")
def _prelu(call: Call) -> Op | None:
    if not isinstance(call.self, Ref) or not known(call.weight):
        return None
    slope = call.per_channel(call.weight)
    return None if slope is None else Activate("prelu", slope)


@recognises("gelu")
def _gelu(call: Call) -> Op | None:
    return Activate("gelu" if call.approximate == "none" else "gelu_tanh")


@recognises("elu", "celu")
def _elu(call: Call) -> Op | None:
    alpha = float(call.alpha)
    if call.name == "aten::celu":
        return Activate(elu(alpha, 1.0, 1 / alpha)) if alpha > 0 else None
    numbers = alpha, float(call.scale), float(call.input_scale)
    return Activate(elu(*numbers)) if numbers[2] > 0 and all(map(isfinite, numbers)) else None


@recognises("softplus")
def _softplus(call: Call) -> Op | None:
    beta, threshold = float(call.beta), float(call.threshold)
    return Activate(softplus(beta, threshold)) if beta > 0 and isfinite(beta) and threshold >= 0 else None
