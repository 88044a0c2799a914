"""ONNX's operators on each number alone: arithmetic, comparisons, activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.engine.frontend.onnx.call import OPERATORS, Call, reads

_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Identity": lambda x: x, "IsNaN": torch.isnan,
    "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal,
    "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan,
    "Tanh": torch.tanh, "Mish": F.mish, "HardSwish": F.hardswish,
}  # fmt: skip

_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Equal": torch.eq, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le, "And": torch.logical_and,
    "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip

for _name, _function in _ONE.items():
    OPERATORS[_name] = lambda call, function=_function: function(call[0])
for _name, _function in _TWO.items():
    OPERATORS[_name] = lambda call, function=_function: function(call[0], call[1])


@reads("Div")
def _div(call: Call) -> Tensor:
    x, y = call[0], call[1]
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@reads("Mod")
def _mod(call: Call) -> Tensor:
    return torch.fmod(call[0], call[1]) if call.flag("fmod") else torch.remainder(call[0], call[1])


@reads("Pow")
def _pow(call: Call) -> Tensor:
    return torch.pow(call[0], call[1]).to(call[0].dtype)


@reads("Max", "Min", "Sum", "Mean")
def _fold(call: Call) -> Tensor:
    functions = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add, "Mean": torch.add}
    result = call[0]
    for position in range(1, len(call)):
        result = functions[call.name](result, call[position])
    return result / len(call) if call.name == "Mean" else result


@reads("Where")
def _where(call: Call) -> Tensor:
    return torch.where(call[0], call[1], call[2])


@reads("IsInf")
def _is_inf(call: Call) -> Tensor:
    x = call[0]
    high, low = call.flag("detect_positive", True), call.flag("detect_negative", True)
    return ((x == math.inf) & high) | ((x == -math.inf) & low)


@reads("Clip")
def _clip(call: Call) -> Tensor:
    low, high = call.attributes.get("min"), call.attributes.get("max")
    low = call.optional(1) if low is None else low
    high = call.optional(2) if high is None else high
    low, high = (x.item() if isinstance(x, Tensor) else x for x in (low, high))
    if low is None and high is None:
        return call[0]
    if low is not None and high is not None and low > high:  # the upper bound wins
        return torch.full_like(call[0], high)
    return torch.clamp(call[0], low, high)


@reads("LeakyRelu")
def _leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call[0], call.number("alpha", 0.01))


@reads("PRelu")
def _prelu(call: Call) -> Tensor:
    x, slope = call[0], call[1]
    channels = (x.shape[1], *[1] * (x.dim() - 2)) if x.dim() > 1 else ()
    old = (x.shape[1],) if call.opset < 7 else channels  # was one number per channel, then is broadcast
    if slope.numel() == 1 or tuple(slope.shape) in (old, channels, (1, *channels)):
        return F.prelu(x, slope.flatten())
    return torch.where(x > 0, x, x * slope)


@reads("Elu")
def _elu(call: Call) -> Tensor:
    return F.elu(call[0], call.number("alpha", 1.0))


@reads("Celu")
def _celu(call: Call) -> Tensor:
    return F.celu(call[0], call.number("alpha", 1.0))


@reads("Selu")
def _selu(call: Call) -> Tensor:
    alpha, gamma = call.number("alpha", 1.6732632423543772), call.number("gamma", 1.0507009873554805)
    return torch.ops.aten.elu(call[0], alpha, gamma)


@reads("HardSigmoid")
def _hard_sigmoid(call: Call) -> Tensor:
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:  # float32's 1/6, as all exporters write it
        return F.hardsigmoid(call[0])
    return (call[0] * alpha + beta).clamp(0, 1)


@reads("Gelu")
def _gelu(call: Call) -> Tensor:
    return F.gelu(call[0], approximate=call.word("approximate", "none"))


@reads("ThresholdedRelu")
def _thresholded_relu(call: Call) -> Tensor:
    return torch.where(call[0] > call.number("alpha", 1.0), call[0], torch.zeros_like(call[0]))


@reads("Shrink")
def _shrink(call: Call) -> Tensor:
    x, bias, edge = call[0], call.number("bias", 0.0), call.number("lambd", 0.5)
    inner = torch.where(x > edge, x - bias, torch.zeros_like(x))
    return torch.where(x < -edge, x + bias, inner).to(x.dtype)


@reads("Dropout")
def _dropout(call: Call) -> list[Tensor | None]:
    training = call.optional(2)
    if training is not None and training.item():
        raise call.refuse("training_mode")
    return [call[0], torch.ones_like(call[0], dtype=torch.bool)]
