"""Norms over the pixels of groups of channels, in three kernels, each of which threads share.

Moments of single channels are joined to those of groups exactly (Chan, Golub and LeVeque, 1983): the variance
of a group is the mean of its channels' variances plus the variance of their means.
"""

from __future__ import annotations

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Modulate, Moments, NormScales, Problem
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div
from regroup.kernels.templates.parts.activations import activate
from regroup.kernels.templates.parts.walk import address, share, vectors
from regroup.kernels.templates.pool import window
from regroup.kernels.templates.rows import ByRow

_ITEMS = 16


class ChannelMoments(Kernel):
    """Means and variances of channels: all pixels twice, the second time for squared deviations."""

    template = "moments"

    def __init__(self, problem: Moments, target: Target) -> None:
        super().__init__(problem, target)
        across = ceil_div(problem.x.channels, target.lanes)
        self.items = min(across, _ITEMS)
        self.tile = "1x1"
        self.cycles = problem.x.height * problem.x.width * across * 3.0

    def _emit(self, name: str) -> list[Code]:
        code, (source, out) = self._open(name)
        _, low, high, _ = code.arguments
        x = self.problem.x
        bounds = (0, x.height), (0, x.width)
        pixels = code.vec(float(x.height * x.width))
        for part in code.each(low, high, name="item"):
            for channel, count in share(code, x.channels, part, self.items):
                at = source + channel
                mean = window(code, x, at, bounds, count, 0.0, lambda a, b: a + b) / pixels

                def deviation(v: Value, mean: Value = mean) -> Value:
                    return (v - mean) * (v - mean)

                squares = window(code, x, at, bounds, count, 0.0, lambda a, b: a + b, deviation)
                code.store(mean, out + channel, count)
                code.store(squares / pixels, out + channel + x.channels, count)
        return [code]


class Scales(Kernel):
    """Moments of channels -> scale and shift of each, a group at a time."""

    template = "norm scales"

    def __init__(self, problem: NormScales, target: Target) -> None:
        super().__init__(problem, target)
        self.norm, self.channels = problem, problem.y.channels // 2
        self.items, self.packed, self.tile = problem.groups, 2 * self.channels, "1x1"
        self.cycles = 8.0 * self.channels

    def _pack(self, parameters: Parameters) -> np.ndarray:
        return np.concatenate([parameters["weight"], parameters["bias"]])

    def _emit(self, name: str) -> list[Code]:
        code, (source, out, weights) = self._open(name)
        _, low, high, _ = code.arguments
        each = self.channels // self.norm.groups
        count = code.value(float(each), "float")
        for group in code.each(low, high, name="group"):
            first = code.integer(group) * each
            means, variances = source + first, source + first + self.channels
            mean = self._mean(code, means, each, count)
            inner = self._mean(code, variances, each, count)
            outer = self._mean(code, means, each, count, mean)
            variance = code.binary(
                "add", code.binary("add", inner, outer), code.value(self.norm.eps, "float")
            )
            scale = 1.0 / code.call("llvm.sqrt", code.splat(variance))
            for c, lanes in vectors(code, each):
                weight, bias = (code.load(weights + first + c + i * self.channels, lanes) for i in (0, 1))
                own = scale * weight
                code.store(own, out + first + c, lanes)
                code.store(bias - code.splat(mean) * own, out + first + c + self.channels, lanes)
        return [code]

    def _mean(self, code: Code, start: Value, each: int, count: Value, around: Value | None = None) -> Value:
        """Return the mean of floats, or of their squared differences from `around`."""

        def add(c: Operand, sums: list[Value]) -> list[Value]:
            v = code.load_scalar(start + c)
            if around is not None:
                v = code.binary("sub", v, around)
                v = code.binary("mul", v, v)
            return [code.binary("add", sums[0], v)]

        (total,) = code.carry(0, each, 1, [code.value(0.0, "float")], add, "c")
        return code.binary("div", total, count)


class Modulated(ByRow):
    """x * scale + shift by channel, then the activation."""

    template = "modulate"

    def __init__(self, problem: Modulate, target: Target) -> None:
        super().__init__(problem, target)
        self.activation = problem.activation
        self.cycles = problem.y.height * problem.y.width * ceil_div(problem.y.channels, target.lanes) * 4.0

    def _pixel(self, code: Code, views: list[Value], y: Operand, x: Operand) -> None:
        channels = self.problem.y.channels
        source, out = address(self.problem.x, views[0], y, x), address(self.problem.y, views[2], y, x)
        for c, count in vectors(code, channels):
            scale, shift = (code.load(views[1] + c + i * channels, count) for i in (0, 1))
            v = code.fma(code.load(source + c, count), scale, shift)
            code.store(activate(code, self.activation, v), out + c, count)


def candidates(problem: Problem, target: Target) -> list[Kernel]:
    """Return the one way to do a problem of this file, if the layouts allow."""
    if any(view.channel_pitch != 1 for view in problem.views):
        return []
    match problem:
        case Moments():
            return [ChannelMoments(problem, target)]
        case NormScales():
            return [Scales(problem, target)]
        case Modulate():
            return [Modulated(problem, target)]
    return []
