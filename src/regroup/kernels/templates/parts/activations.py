"""Activations of vectors, by the names that problems have for them."""

from __future__ import annotations

import math

from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.functions import (
    at_least,
    at_most,
    elu,
    gelu,
    gelu_by_tanh,
    hard_sigmoid,
    mish,
    sigmoid,
    softplus,
    tanh,
)
from regroup.kernels.problems.fused import parsed


def activate(code: Code, activation: str, x: Value) -> Value:
    """Return the activation (`regroup.kernels.problems.fused`) of a vector."""
    name, numbers = parsed(activation)
    match name:
        case "none":
            return x
        case "relu":
            return at_least(code, x, 0.0)
        case "relu6":
            return at_most(code, at_least(code, x, 0.0), 6.0)
        case "clamp":
            low, high = numbers
            x = x if low == -math.inf else at_least(code, x, low)
            return x if high == math.inf else at_most(code, x, high)
        case "leaky_relu":
            return code.select(code.compare("ogt", x, 0.0), x, x * numbers[0])
        case "sigmoid":
            return sigmoid(code, x)
        case "silu":
            return x * sigmoid(code, x)
        case "hardsigmoid":
            return hard_sigmoid(code, x)
        case "hardswish":
            return x * hard_sigmoid(code, x)
        case "tanh":
            return tanh(code, x)
        case "gelu":
            return gelu(code, x)
        case "gelu_tanh":
            return gelu_by_tanh(code, x)
        case "mish":
            return mish(code, x)
        case "elu":
            return elu(code, x, *numbers)
        case "softplus":
            return softplus(code, x, *numbers)
    raise AssertionError(name)
