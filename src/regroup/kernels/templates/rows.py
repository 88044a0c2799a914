"""Work on one pixel's channels at a time: sums and maxima, softmax, layer and local response norm."""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import inf

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.functions import exp
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import AcrossChannels, LayerNorm, LocalResponseNorm, Problem, Softmax
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div
from regroup.kernels.templates.parts.walk import address, vectors
from regroup.kernels.templates.pool import largest


class ByRow(Kernel):
    """A kernel whose work items are output rows."""

    def __init__(self, problem: Problem, target: Target) -> None:
        super().__init__(problem, target)
        self.items, self.rows = problem.y.height, 1
        self.tile = "1x1"
        self.cycles = problem.y.height * problem.y.width * ceil_div(problem.y.channels, target.lanes) * 30.0

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        for y in code.each(low, high, name="row"):
            for x in code.each(0, self.problem.y.width, name="column"):
                self._pixel(code, views, y, x)
        return [code]

    def _pixel(self, code: Code, views: list[Value], y: Operand, x: Operand) -> None:
        raise NotImplementedError

    def _addresses(self, views: list[Value], y: Operand, x: Operand) -> tuple[Value, Value]:
        """Return where a pixel of the input and of the output begins."""
        return address(self.problem.x, views[0], y, x), address(self.problem.y, views[1], y, x)


class SoftmaxRows(ByRow):
    """Softmax over channels: the maximum, the sum of exponentials, the quotient."""

    template = "softmax"

    def __init__(self, problem: Softmax, target: Target) -> None:
        super().__init__(problem, target)
        self.log = problem.log

    def _pixel(self, code: Code, views: list[Value], y: Operand, x: Operand) -> None:
        channels = self.problem.y.channels
        source, out = self._addresses(views, y, x)
        most = code.splat(maximum(code, channels, source))

        def grown(v: Value) -> Value:
            return exp(code, v - most)

        one = code.splat(total(code, channels, source, grown))
        for c, count in vectors(code, channels):
            v = exp(code, code.load(source + c, count) - most) / one
            code.store(v, out + c, count)


class Across(ByRow):
    """One channel of all."""

    template = "across"

    def __init__(self, problem: AcrossChannels, target: Target) -> None:
        super().__init__(problem, target)
        self.kind = problem.kind
        self.cycles = problem.y.height * problem.y.width * (ceil_div(problem.x.channels, target.lanes) + 15.0)

    def _pixel(self, code: Code, views: list[Value], y: Operand, x: Operand) -> None:
        channels = self.problem.x.channels
        source, out = self._addresses(views, y, x)
        if self.kind == "max":
            code.store_scalar(maximum(code, channels, source), out)
            return
        found = total(code, channels, source)
        if self.kind == "average":
            found = code.binary("div", found, code.value(float(channels), "float"))
        code.store_scalar(found, out)


class Layer(ByRow):
    """Layer norm over channels: the mean, then the mean of squared deviations, then the quotient."""

    template = "layer norm"

    def __init__(self, problem: LayerNorm, target: Target) -> None:
        super().__init__(problem, target)
        self.eps = problem.eps
        self.packed = 2 * problem.y.channels

    def _pack(self, parameters: Parameters) -> np.ndarray:
        return np.concatenate([parameters["weight"], parameters["bias"]])

    def _pixel(self, code: Code, views: list[Value], y: Operand, x: Operand) -> None:
        channels = self.problem.y.channels
        source, out = self._addresses(views, y, x)
        count = code.vec(float(channels))
        mean = code.splat(total(code, channels, source)) / count

        def deviation(v: Value) -> Value:
            return (v - mean) * (v - mean)

        variance = code.splat(total(code, channels, source, deviation)) / count
        scale = 1.0 / code.call("llvm.sqrt", variance + self.eps)
        for c, lanes in vectors(code, channels):
            weight, bias = (code.load(views[2] + c + i * channels, lanes) for i in (0, 1))
            v = (code.load(source + c, lanes) - mean) * scale
            code.store(code.fma(v, weight, bias), out + c, lanes)


def maximum(code: Code, channels: int, source: Value) -> Value:
    """Return the largest of the floats at `source`, NaN if any is."""
    top = _fold(code, channels, source, -inf, lambda best, v: largest(code, best, v))
    return functools.reduce(lambda a, b: _larger(code, a, b), _scalars(code, top))


def total(code: Code, channels: int, source: Value, of: Callable[[Value], Value] = lambda v: v) -> Value:
    """Return the sum of a function of the floats at `source`."""
    return _sum(code, _scalars(code, _fold(code, channels, source, 0.0, lambda sum, v: sum + of(v))))


def _sum(code: Code, scalars: list[Value]) -> Value:
    return functools.reduce(lambda a, b: code.binary("add", a, b), scalars)


def _fold(
    code: Code, channels: int, source: Value, initial: float, join: Callable[[Value, Value], Value]
) -> Value:
    """Return a vector of what `join` makes of the floats at `source`, each in one of the lanes."""
    lanes = code.lanes
    found, rest = code.vec(initial), channels % lanes
    if channels > rest:
        (found,) = code.carry(
            0, channels - rest, lanes, [found], lambda c, t: [join(t[0], code.load(source + c))]
        )
    if rest:
        joined = join(found, code.load(source + (channels - rest), rest))
        found = code.select(code.first_lanes(rest), joined, found)
    return found


def _scalars(code: Code, v: Value) -> list[Value]:
    return [code.extract(v, lane) for lane in range(code.lanes)]


def _larger(code: Code, a: Value, b: Value) -> Value:
    larger = code.select(code.compare("ogt", a, b), a, b)
    return code.select(code.compare("uno", a, a), a, larger)


class ResponseNorm(ByRow):
    """Local response normalisation: squares with zeros on either side, summed over a sliding window."""

    template = "response norm"

    def __init__(self, problem: LocalResponseNorm, target: Target) -> None:
        super().__init__(problem, target)
        self.norm = problem
        self.before = problem.size // 2
        padded = ceil_div(problem.y.channels, target.lanes) * target.lanes
        self.scratch = padded + problem.size + target.lanes

    def _pixel(self, code: Code, views: list[Value], y: Operand, x: Operand) -> None:
        norm, channels = self.norm, self.norm.y.channels
        squares = code.arguments[3]
        source, out = self._addresses(views, y, x)
        for c, count in vectors(code, self.scratch):
            code.store(code.vec(0.0), squares + c, count)
        for c, count in vectors(code, channels):
            v = code.load(source + c, count)
            code.store(v * v, squares + c + self.before, count)
        for c, count in vectors(code, channels):
            total = code.vec(0.0)
            for i in range(norm.size):
                total = total + code.load(squares + c + i)
            base = code.fma(total, code.vec(norm.alpha / norm.size), code.vec(norm.k))
            code.store(code.load(source + c, count) / self._power(code, base), out + c, count)

    def _power(self, code: Code, base: Value) -> Value:
        root = code.call("llvm.sqrt", base)
        return {0.5: root, 1.0: base, 0.75: root * code.call("llvm.sqrt", root)}[self.norm.beta]


def candidates(problem: Problem, target: Target) -> list[Kernel]:
    """Return the one way to do a problem of this file, if the layouts allow."""
    if any(view.channel_pitch != 1 for view in problem.views):
        return []
    match problem:
        case Softmax(log=False):
            return [SoftmaxRows(problem, target)]
        case AcrossChannels():
            return [Across(problem, target)]
        case LayerNorm():
            return [Layer(problem, target)]
        case LocalResponseNorm() if problem.beta in (0.5, 0.75, 1.0):
            return [ResponseNorm(problem, target)]
    return []
