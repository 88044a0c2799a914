"""Work on one pixel's channels at a time: softmax, local response normalisation."""

from __future__ import annotations

import functools
from math import inf

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.functions import exp
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import LocalResponseNorm, Problem, Softmax
from regroup.kernels.templates.base import Kernel, ceil_div
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
        top = self._fold(code, channels, source, -inf, lambda best, v: largest(code, best, v))
        most = code.splat(functools.reduce(lambda a, b: _larger(code, a, b), self._scalars(code, top)))

        def grown(total: Value, v: Value) -> Value:
            return total + exp(code, v - most)

        total = self._fold(code, channels, source, 0.0, grown)
        one = code.splat(functools.reduce(lambda a, b: code.binary("add", a, b), self._scalars(code, total)))
        for c, count in vectors(code, channels):
            v = exp(code, code.load(source + c, count) - most) / one
            code.store(v, out + c, count)

    def _fold(self, code: Code, channels: int, source: Value, initial: float, join) -> Value:
        lanes = code.lanes
        total, rest = code.vec(initial), channels % lanes
        if channels > rest:
            (total,) = code.carry(
                0, channels - rest, lanes, [total], lambda c, t: [join(t[0], code.load(source + c))]
            )
        if rest:
            inside = code.first_lanes(rest)
            joined = join(total, code.load(source + (channels - rest), rest))
            total = code.select(inside, joined, total)
        return total

    def _scalars(self, code: Code, v: Value) -> list[Value]:
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
        case LocalResponseNorm() if problem.beta in (0.5, 0.75, 1.0):
            return [ResponseNorm(problem, target)]
    return []
