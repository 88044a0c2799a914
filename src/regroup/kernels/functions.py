"""Activations and the exponential on vectors, to one or two units in the last place; NaN stays NaN."""

from __future__ import annotations

import math

from regroup.kernels.lang import Code, Value

_LOG2E = math.log2(math.e)
_LN2_HIGH, _LN2_LOW = 0.693359375, math.log(2) - 0.693359375  # the first has 9 bits: n * high is exact
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the rounded integer in the low mantissa bits
_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)


def at_least(code: Code, v: Value, low: float) -> Value:
    """Return max(v, low), NaN for NaN."""
    return code.select(code.compare("olt", v, low), low, v)


def at_most(code: Code, v: Value, high: float) -> Value:
    """Return min(v, high), NaN for NaN."""
    return code.select(code.compare("ogt", v, high), high, v)


def exp(code: Code, x: Value) -> Value:
    """Return e ** x; arguments are limited to where the result is a normal number.

    Range reduction by two-part ln 2 and Cephes' polynomial of degree 7 (expf).
    """
    x = at_most(code, at_least(code, x, -87.0), 87.0)
    shifted = code.fma(x, code.vec(_LOG2E), code.vec(_ROUND))
    n = shifted - _ROUND
    r = code.fma(n, code.vec(-_LN2_LOW), code.fma(n, code.vec(-_LN2_HIGH), x))
    p = code.vec(_EXP[0])
    for coefficient in _EXP[1:]:
        p = code.fma(p, r, code.vec(coefficient))
    p = code.fma(p, r * r, r) + 1.0
    ints = f"<{code.lanes} x i32>"
    bits = code.emit(ints, f"bitcast {code.vector} {shifted} to {ints}")
    power = code.emit(ints, f"shl {ints} {bits}, splat (i32 23)")
    mantissa = code.emit(ints, f"bitcast {code.vector} {p} to {ints}")
    scaled = code.emit(ints, f"add {ints} {mantissa}, {power}")
    result = code.emit(code.vector, f"bitcast {ints} {scaled} to {code.vector}")
    return code.select(code.compare("uno", x, x), x, result)


def reciprocal(code: Code, x: Value) -> Value:
    """Return 1 / x for finite x that is not tiny: an estimate and a step of Newton's where that is quicker."""
    if code.lanes != 16 or not code.target.triple.startswith("x86_64"):
        return 1.0 / x
    name = "@llvm.x86.avx512.rcp14.ps.512"
    code.declarations.add(f"declare {code.vector} {name}({code.vector}, {code.vector}, i16)")
    zeros = f"{code.vector} zeroinitializer"
    zeros = f"{code.vector} zeroinitializer"
    call = f"call {code.vector} {name}({code.vector} {x}, {zeros}, i16 -1)"
    near = code.emit(code.vector, call)
    return code.fma(near, code.fma(0.0 - x, near, code.vec(1.0)), near)


def sigmoid(code: Code, x: Value) -> Value:
    """Return 1 / (1 + e ** -x)."""
    return reciprocal(code, exp(code, 0.0 - x) + 1.0)


def tanh(code: Code, x: Value) -> Value:
    """Return the hyperbolic tangent: an odd polynomial near zero, exponentials elsewhere."""
    square = x * x
    p = code.vec(_TANH[0])
    for coefficient in _TANH[1:]:
        p = code.fma(p, square, code.vec(coefficient))
    near = code.fma(p * square, x, x)
    far = 1.0 - 2.0 / (exp(code, x * 2.0) + 1.0)
    small = code.compare("olt", code.call("llvm.fabs", x), 0.625)
    return code.select(small, near, far)


def erf(code: Code, x: Value) -> Value:
    """Return the error function by Abramowitz and Stegun 7.1.28's form, refitted: see `_ERFC`."""
    magnitude = code.call("llvm.fabs", x)
    t = 1.0 / code.fma(magnitude, code.vec(0.5), code.vec(1.0))
    p = code.vec(_ERFC[0])
    for coefficient in _ERFC[1:]:
        p = code.fma(p, t, code.vec(coefficient))
    far = 1.0 - t * exp(code, p - magnitude * magnitude)
    square = x * x
    q = code.vec(_ERF[0])
    for coefficient in _ERF[1:]:
        q = code.fma(q, square, code.vec(coefficient))
    signed = code.call("llvm.copysign", far, x)
    return code.select(code.compare("olt", magnitude, 0.5), q * x, signed)


# erfc(x) = t exp(-x^2 + P(t)), t = 1 / (1 + x / 2): the Chebyshev fit of Numerical Recipes 6.2 (erfcc)
_ERFC = (
    0.17087277,
    -0.82215223,
    1.48851587,
    -1.13520398,
    0.27886807,
    -0.18628806,
    0.09678418,
    0.37409196,
    1.00002368,
    -1.26551223,
)
# the Taylor series of erf(x) / x in x^2: 2 / sqrt(pi) * (-1)^n / (n! (2n + 1))
_ERF = tuple(2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(7, -1, -1))


def activate(code: Code, name: str, x: Value) -> Value:
    """Return the activation `name` (`regroup.kernels.problem.ACTIVATIONS`) of a vector."""
    match name:
        case "none":
            return x
        case "relu":
            return at_least(code, x, 0.0)
        case "relu6":
            return at_most(code, at_least(code, x, 0.0), 6.0)
        case "leaky_relu":
            return code.select(code.compare("olt", x, 0.0), x * 0.01, x)
        case "sigmoid":
            return sigmoid(code, x)
        case "silu":
            return x * sigmoid(code, x)
        case "hardsigmoid":
            return at_most(code, at_least(code, x + 3.0, 0.0), 6.0) * (1.0 / 6.0)
        case "hardswish":
            return at_most(code, at_least(code, x + 3.0, 0.0), 6.0) * x * (1.0 / 6.0)
        case "tanh":
            return tanh(code, x)
        case "gelu":
            return x * 0.5 * (erf(code, x * math.sqrt(0.5)) + 1.0)
    raise AssertionError(name)
