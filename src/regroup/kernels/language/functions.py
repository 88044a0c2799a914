"""Activations and the exponential on vectors, to one or two units in the last place; NaN stays NaN."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from regroup.kernels.language.code import Code, Value

_LOG2E = math.log2(math.e)
_LN2_HIGH, _LN2_LOW = 0.693359375, math.log(2) - 0.693359375  # the first has 9 bits: n * high is exact
_EXP = (
    0.001381453825160861,
    0.00836874544620514,
    0.04166838899254799,
    0.1666652113199234,
    0.4999999403953552,
)
"""e ** r = 1 + r + r ** 2 * P(r) for |r| <= ln 2 / 2: fitted here for the least relative error, 3e-9."""
_EXP2 = (
    0.000215659718378447,
    0.0012482289457693696,
    0.009673775173723698,
    0.05548618361353874,
    0.24022908508777618,
    0.6931470632553101,
    1.0,
)
"""2 ** f for 0 <= f < 1, fitted in the same way, each number rounded before the next was fitted: 2e-9."""
_LOG2E_HIGH, _LOG2E_LOW = 1.4426950216293335, 1.92596298909109e-08
_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the rounded integer in the low mantissa bits
_ATANH = tuple(2 / n for n in range(19, 1, -2))
"""2 artanh(s) = 2 s + s ** 3 * P(s ** 2): its Taylor series, for s up to 1/3."""
_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)


def at_least(code: Code, v: Value, low: float) -> Value:
    """Return max(v, low), NaN for NaN."""
    return code.select(code.compare("olt", v, low), low, v)


def at_most(code: Code, v: Value, high: float) -> Value:
    """Return min(v, high), NaN for NaN."""
    return code.select(code.compare("ogt", v, high), high, v)


def nearest(code: Code, x: Value) -> Value:
    """Return x rounded to the nearest integer, ties to even; a vector or a float.

    Where there is no instruction for it, LLVM would call a library: there, adding 2^23 rounds.
    """
    if not code.target.triple.startswith(("armv7", "thumbv7")):
        return code.call("llvm.roundeven", x)
    magnitude = code.call("llvm.fabs", x)
    whole = code.call("llvm.copysign", (magnitude + 2.0**23) - 2.0**23, x)
    return code.select(code.compare("olt", magnitude, 2.0**23), whole, x)


def exp(code: Code, x: Value, sign: int = 1) -> Value:
    """Return e ** (sign * x); more than about 1e38 may come out as less, but never below that."""
    if _has_avx512(code):
        return _exp_avx512(code, x, sign)
    vanishes = code.compare("olt" if sign > 0 else "ogt", x, sign * -87.0)
    x = at_most(code, at_least(code, x, -87.0), 87.0)
    shifted = code.fma(x, code.vec(sign * _LOG2E), code.vec(_ROUND))
    n = shifted - _ROUND
    r = code.fma(n, code.vec(-sign * _LN2_HIGH), x)
    r = code.fma(n, code.vec(-sign * _LN2_LOW), r)  # sign * r is what is left; odd terms carry the sign
    signed = [sign ** (len(_EXP) - 1 - i) * coefficient for i, coefficient in enumerate(_EXP)]
    p = code.fma(code.fma(_polynomial(code, signed, r), r, code.vec(sign)), r, code.vec(1.0))
    ints = f"<{code.lanes} x i32>"
    bits = code.emit(ints, f"bitcast {code.vector} {shifted} to {ints}")
    power = code.emit(ints, f"shl {ints} {bits}, splat (i32 23)")
    mantissa = code.emit(ints, f"bitcast {code.vector} {p} to {ints}")
    sum_ = code.emit(ints, f"add {ints} {mantissa}, {power}")
    result = code.emit(code.vector, f"bitcast {ints} {sum_} to {code.vector}")
    return code.select(vanishes, 0.0, code.select(code.compare("uno", x, x), x, result))


def _exp_avx512(code: Code, x: Value, sign: int) -> Value:
    """Return 2 ** t by its two instructions: the fraction of t, and a product with 2 ** floor(t).

    What rounding takes from t goes to the fraction: the power would magnify it.
    """
    vector = code.vector
    x = at_most(code, at_least(code, x, -104.0), 104.0)
    t = x * (sign * _LOG2E_HIGH)
    lost = code.fma(x, code.vec(sign * _LOG2E_HIGH), 0.0 - t)
    lost = code.fma(x, code.vec(sign * _LOG2E_LOW), lost)
    nothing = f"{vector} zeroinitializer"
    reduce, scale = (f"@llvm.x86.avx512.mask.{name}.ps.512" for name in ("reduce", "scalef"))
    code.declarations.add(f"declare {vector} {reduce}({vector}, i32, {vector}, i16, i32)")
    code.declarations.add(f"declare {vector} {scale}({vector}, {vector}, {vector}, i16, i32)")
    arguments = f"{vector} {t}, i32 9, {nothing}, i16 -1, i32 4"
    fraction = code.emit(vector, f"call {vector} {reduce}({arguments})")
    p = _polynomial(code, _EXP2, fraction + lost)
    return code.emit(vector, f"call {vector} {scale}({vector} {p}, {vector} {t}, {nothing}, i16 -1, i32 4)")


def _polynomial(code: Code, coefficients: Sequence[float], x: Value) -> Value:
    """Return a polynomial, its highest coefficient first."""
    p = code.vec(coefficients[0])
    for coefficient in coefficients[1:]:
        p = code.fma(p, x, code.vec(coefficient))
    return p


def _has_avx512(code: Code) -> bool:
    return code.lanes == 16 and code.target.triple.startswith("x86_64")


def reciprocal(code: Code, x: Value) -> Value:
    """Return 1 / x for finite x that is not tiny: where that is quicker, an estimate, improved once."""
    if not _has_avx512(code):
        return 1.0 / x
    name = "@llvm.x86.avx512.rcp14.ps.512"
    code.declarations.add(f"declare {code.vector} {name}({code.vector}, {code.vector}, i16)")
    zeros = f"{code.vector} zeroinitializer"
    call = f"call {code.vector} {name}({code.vector} {x}, {zeros}, i16 -1)"
    near = code.emit(code.vector, call)
    return code.fma(near, code.fma(0.0 - x, near, code.vec(1.0)), near)


def sigmoid(code: Code, x: Value) -> Value:
    """Return 1 / (1 + e ** -x); far below zero, where the power overflows, 0."""
    return code.select(code.compare("olt", x, -87.0), 0.0, reciprocal(code, exp(code, x, -1) + 1.0))


def tanh(code: Code, x: Value) -> Value:
    """Return the hyperbolic tangent: an odd polynomial near zero, exponentials elsewhere."""
    square, magnitude = x * x, code.call("llvm.fabs", x)
    near = code.fma(_polynomial(code, _TANH, square) * square, x, x)
    far = code.call("llvm.copysign", 1.0 - 2.0 / (exp(code, magnitude * 2.0) + 1.0), x)
    return code.select(code.compare("olt", magnitude, 0.625), near, far)


def exp_minus_1(code: Code, x: Value) -> Value:
    """Return e ** x - 1 for x that is not above zero (NaN for NaN), as exact near zero as elsewhere.

    With e ** x = 2 ** n * (1 + p) it is 2 ** n * p + (2 ** n - 1), of which only the sum is rounded.
    """
    x = at_least(code, x, -87.0)
    n = code.fma(x, code.vec(_LOG2E), code.vec(_ROUND)) - _ROUND
    r = code.fma(n, code.vec(-_LN2_LOW), code.fma(n, code.vec(-_LN2_HIGH), x))
    p = code.fma(_polynomial(code, _EXP, r) * r, r, r)
    ints = f"<{code.lanes} x i32>"
    whole = code.emit(
        ints, f"fptosi {code.vector} {code.select(code.compare('uno', n, n), 0.0, n)} to {ints}"
    )
    biased = code.emit(ints, f"add {ints} {whole}, splat (i32 127)")
    bits = code.emit(ints, f"shl {ints} {biased}, splat (i32 23)")
    power = code.emit(code.vector, f"bitcast {ints} {bits} to {code.vector}")
    return code.fma(power, p, power - 1.0)


def log_1_plus(code: Code, u: Value) -> Value:
    """Return log(1 + u) for 0 <= u <= 1: twice the inverse hyperbolic tangent of u / (2 + u)."""
    below = u + 2.0
    s = u / below
    rest = code.fma(0.0 - s, below, u)  # what the quotient's rounding left, and then the sum's
    rest = code.fma(0.0 - s, u - (below - 2.0), rest) / below
    square = s * s
    return code.fma(s * square, _polynomial(code, _ATANH, square), rest + rest) + (s + s)


def softplus(code: Code, x: Value, beta: float, threshold: float) -> Value:
    """Return log(1 + e ** (beta x)) / beta, and x where beta x is above the threshold."""
    scaled = x * beta
    small = log_1_plus(code, exp(code, 0.0 - code.call("llvm.fabs", scaled)))
    whole = at_least(code, scaled, 0.0) + small
    result = whole if beta == 1 else whole / code.vec(beta)
    return code.select(code.compare("ogt", scaled, threshold), x, result)


def elu(code: Code, x: Value, alpha: float, scale: float, input_scale: float) -> Value:
    """Return x times `scale`, below zero alpha (e ** (input_scale x) - 1) times `scale`."""
    below = x if input_scale == 1 else x * input_scale
    power = exp_minus_1(code, code.select(code.compare("ogt", below, 0.0), 0.0, below))
    factor = alpha * scale
    negative = power if factor == 1 else power * factor
    return code.select(code.compare("ogt", x, 0.0), x if scale == 1 else x * scale, negative)


def mish(code: Code, x: Value) -> Value:
    """Return x tanh(log(1 + e ** x)), which is x n / (n + 2) with n = e ** x (e ** x + 2)."""
    power = exp(code, at_most(code, x, 20.0))  # from there on the quotient is 1
    n = power * (power + 2.0)
    return x * (n / (n + 2.0))


def gelu_by_tanh(code: Code, x: Value) -> Value:
    """Return x / 2 (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x ** 3), as x sigmoid(2 u).

    What 2 u loses by rounding is carried along: the exponential would magnify it.
    """
    (one, one_lost), (cube, cube_lost) = _GELU
    near = at_most(code, at_least(code, x, -20.0), 20.0)
    square = near * near
    square_lost = code.fma(near, near, 0.0 - square)
    term = square * cube
    term_lost = code.fma(square, code.vec(cube), 0.0 - term)
    factor = term + one
    back = factor - one
    factor_lost = (term - back) + (one - (factor - back)) + term_lost  # of the sum, then of the product
    factor_lost = code.fma(square_lost, code.vec(cube), code.fma(square, code.vec(cube_lost), factor_lost))
    u = near * factor
    lost = code.fma(near, factor_lost + one_lost, code.fma(near, factor, 0.0 - u))
    power = exp(code, u, -1)
    quotient = reciprocal(code, code.fma(power, 0.0 - lost, power) + 1.0)
    return x * code.select(code.compare("olt", u, -87.0), 0.0, quotient)


def hard_sigmoid(code: Code, x: Value) -> Value:
    """Return x / 6 + 1/2 between 0 and 1.

    The quotient is corrected by its remainder: 1/6, rounded, is too large, and so would all results be.
    """
    sum_ = at_most(code, at_least(code, x + 3.0, 0.0), 6.0)
    near = sum_ * (1.0 / 6.0)
    return code.fma(code.fma(near, code.vec(-6.0), sum_), code.vec(1.0 / 6.0), near)


def gelu(code: Code, x: Value) -> Value:
    """Return x times the normal distribution's function, x / 2 * erfc(-x / sqrt 2).

    The complement of the error function has small values of its own: 1 + erf would round them away.
    """
    half, z = x * 0.5, x * math.sqrt(0.5)
    magnitude = code.call("llvm.fabs", z)
    t = 1.0 / code.fma(magnitude, code.vec(0.5), code.vec(1.0))
    near_zero = at_most(code, code.call("llvm.fabs", x), 20.0)  # further out the tail is 0
    square = near_zero * 0.5 * near_zero  # of z; the exponential would magnify what its rounding loses
    lost = code.fma(near_zero * 0.5, near_zero, 0.0 - square)
    tail = t * exp(code, (_polynomial(code, _ERFC, t) - lost) - square)
    far = half * code.select(code.compare("olt", z, 0.0), tail, 2.0 - tail)
    near = half * code.fma(_polynomial(code, _ERF, square), z, code.vec(1.0))
    return code.select(code.compare("olt", magnitude, 0.5), near, far)


def _split(number: float) -> tuple[float, float]:
    """Return a number as float32 has it, and what that leaves."""
    (high,) = struct.unpack("f", struct.pack("f", number))
    return high, number - high


_GELU = _split(2 * math.sqrt(2 / math.pi)), _split(2 * math.sqrt(2 / math.pi) * 0.044715)
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
