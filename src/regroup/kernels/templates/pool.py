"""Max and average pooling, with windows or to a fixed number of cells: vectors of channels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, nan

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import AdaptivePool, Pool
from regroup.kernels.problems.view import View
from regroup.kernels.templates.base import Kernel, Run, ceil_div, choose
from regroup.kernels.templates.parts.activations import activate
from regroup.kernels.templates.parts.walk import address, share

_ITEMS = 16

_LONG = 256
"""Pixels of a window whose rows are joined one by one."""

_MOST_CUTS = 9
"""Ways in which windows are cut that have code of their own at most."""


@dataclass(frozen=True)
class _Cut:
    """Output rows or columns, `count` from `first` on: taps inside the image; how many the mean counts."""

    first: int
    count: int
    taps: range
    divisor: int


def _whole(taps: int) -> _Cut:
    return _Cut(0, 0, range(taps), taps)


class Window(Kernel):
    """Pooling over windows.

    Windows are written out, those over the image's edge cut to it: each way of cutting has code of its own.
    Where there are many ways, those over the edge are cut at run time.

    Args:
        problem: the pooling.
        target: the CPU.
    """

    template = "pool"

    def __init__(self, problem: Pool, target: Target) -> None:
        super().__init__(problem, target)
        self.pool = problem
        y = problem.y
        across = ceil_div(y.channels, target.lanes)
        self.per_unit = min(across, max(1, _ITEMS // y.height))
        self.items, self.rows = y.height * self.per_unit, 1
        kh, kw = problem.kernel_size
        self.tile = f"{kh}x{kw}"
        self.cycles = y.height * y.width * across * (kh * kw * 2.0 + 6)

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        for item in code.each(low, high, name="item"):
            self._row(code, views, item // self.per_unit, item % self.per_unit)
        return [code]

    def _row(self, code: Code, views: list[Value], y: Operand, part: Operand) -> None:
        rows, columns = self._cuts(0), self._cuts(1)
        if len(rows) * len(columns) > _MOST_CUTS:
            self._row_cut_at_run_time(code, views, y, part)
            return
        runs = [(cut.first, 1, cut.count) for cut in rows]

        def write(y: Operand, run: Run) -> None:
            for column in columns:
                for x in code.each(column.first, column.first + column.count, name="column"):
                    cut = rows[runs.index(run)], column
                    self._pixel(code, views, (code.integer(y), code.integer(x)), part, cut)

        choose(code, y, runs, write)

    def _cuts(self, axis: int) -> list[_Cut]:
        """Return runs of output rows (0) or columns (1) whose windows are cut alike."""
        pool = self.pool
        size, out = (pool.x.height, pool.x.width)[axis], (pool.y.height, pool.y.width)[axis]
        taps, dilation = pool.kernel_size[axis], pool.dilation[axis]
        found: list[_Cut] = []
        for i in range(out):
            start = i * pool.stride[axis] - pool.padding[axis]
            inside = range(ceil_div(max(0, -start), dilation), min(taps, ceil_div(size - start, dilation)))
            padded = min(start + taps, size + pool.padded[axis]) - start
            cut = _Cut(i, 1, inside, padded if pool.count_include_pad else len(inside))
            if found and (found[-1].taps, found[-1].divisor) == (cut.taps, cut.divisor):
                found[-1] = replace(found[-1], count=found[-1].count + 1)
            else:
                found.append(cut)
        return found

    def _row_cut_at_run_time(self, code: Code, views: list[Value], y: Operand, part: Operand) -> None:
        pool = self.pool
        whole = _whole(pool.kernel_size[0]), _whole(pool.kernel_size[1])
        y = code.integer(y)
        (top, bottom), (left, right) = self._inside(0), self._inside(1)

        def columns(low: int, high: int, edge: bool) -> None:
            for x in code.each(low, high, name="column") if high > low else ():
                place = y, code.integer(x)
                if edge:
                    self._edge(code, views, place, part)
                else:
                    self._pixel(code, views, place, part, whole)

        def middle() -> None:
            columns(0, left, True)
            columns(left, right, False)
            columns(right, pool.y.width, True)

        if (top, bottom) == (0, pool.y.height):
            middle()
        else:
            inside = code.compare("ult", y - top, bottom - top)
            code.either(inside, middle, lambda: columns(0, pool.y.width, True))

    def _inside(self, axis: int) -> tuple[int, int]:
        """Return the range of output rows (0) or columns (1) whose windows lie inside the image."""
        pool = self.pool
        size = (pool.x.height, pool.x.width)[axis]
        out = (pool.y.height, pool.y.width)[axis]
        stride, padding = pool.stride[axis], pool.padding[axis]
        low = min(out, ceil_div(padding, stride))
        high = (size - 1 - (pool.kernel_size[axis] - 1) * pool.dilation[axis] + padding) // stride + 1
        return low, max(low, min(out, high))

    def _pixel(
        self,
        code: Code,
        views: list[Value],
        place: tuple[Value, Value],
        part: Operand,
        cut: tuple[_Cut, _Cut],
    ) -> None:
        """Write a pixel whose window is cut in a known way."""
        pool, x = self.pool, self.pool.x
        y0, x0 = (i * pool.stride[axis] - pool.padding[axis] for axis, i in enumerate(place))
        corner = address(x, views[0], y0, x0)
        taps = [
            ky * pool.dilation[0] * x.row_pitch + kx * pool.dilation[1] * x.pixel_pitch
            for ky in cut[0].taps
            for kx in cut[1].taps
        ]
        out = address(pool.y, views[1], *place)
        for channel, count in share(code, pool.y.channels, part, self.per_unit):
            values = [code.load(corner + channel + tap, count) for tap in taps]
            if pool.kind == "max":
                result = largest_of(code, values)
            else:
                result = tree_sum(values) * (1.0 / (pool.divisor or cut[0].divisor * cut[1].divisor))
            code.store(activate(code, pool.activation, result), out + channel, count)

    def _edge(self, code: Code, views: list[Value], place: tuple[Value, Value], part: Operand) -> None:
        """Write a pixel whose window may reach over the image's edge."""
        pool, sizes = self.pool, (self.pool.x.height, self.pool.x.width)
        bounds, area = [], []
        for axis, index in enumerate(place):
            first = index * pool.stride[axis] - pool.padding[axis]
            last = first + pool.kernel_size[axis]
            low, high = code.larger(first, 0), code.smaller(last, sizes[axis])
            bounds.append((low, high))
            padded = code.smaller(last, sizes[axis] + pool.padded[axis]) - first
            area.append(padded if pool.count_include_pad else high - low)
        count = code.value(float(pool.divisor), "float") if pool.divisor else code.as_float(area[0] * area[1])
        factor = code.splat(code.emit("float", f"fdiv float 1.0, {count}"))
        out = address(pool.y, views[1], *place)
        for channel, lanes in share(code, pool.y.channels, part, self.per_unit):
            start = views[0] + channel
            if pool.kind == "max":
                result = window(code, pool.x, start, bounds, lanes, -inf, lambda a, b: largest(code, a, b))
            else:
                result = window(code, pool.x, start, bounds, lanes, 0.0, lambda a, b: a + b) * factor
            code.store(activate(code, pool.activation, result), out + channel, lanes)


class Cells(Kernel):
    """Pooling to a fixed number of cells; one cell is the global mean.

    Args:
        problem: the pooling.
        target: the CPU.
    """

    template = "cells"

    def __init__(self, problem: AdaptivePool, target: Target) -> None:
        super().__init__(problem, target)
        self.pool = problem
        across = ceil_div(problem.y.channels, target.lanes)
        self.per_unit = min(across, _ITEMS)
        self.items = problem.y.height * self.per_unit
        self.tile = "1x1"
        self.cycles = problem.x.height * problem.x.width * across * 1.5

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        pool = self.pool
        for item in code.each(low, high, name="item"):
            y, part = item // self.per_unit, item % self.per_unit
            top, bottom = self._bounds(code, y, pool.x.height, pool.y.height)
            for x in code.each(0, pool.y.width, name="column"):
                left, right = self._bounds(code, x, pool.x.width, pool.y.width)
                out = address(pool.y, views[1], y, x)
                for channel, count in share(code, pool.y.channels, part, self.per_unit):
                    result = self._cell(code, views[0] + channel, ((top, bottom), (left, right)), count)
                    code.store(result, out + channel, count)
        return [code]

    def _cell(self, code: Code, start: Value, bounds: Bounds, count: int) -> Value:
        if self.pool.kind == "max":
            return window(code, self.pool.x, start, bounds, count, -inf, lambda a, b: largest(code, a, b))
        total = window(code, self.pool.x, start, bounds, count, 0.0, lambda a, b: a + b)
        if self.pool.kind == "sum":
            return total
        (top, bottom), (left, right) = bounds
        return total / code.splat(code.as_float(code.integer(bottom - top) * (right - left)))

    def _bounds(self, code: Code, index: Operand, size: int, cells: int) -> tuple[Operand, Operand]:
        if cells == 1:
            return 0, size
        index = code.integer(index)
        return index * size // cells, (index * size + (size + cells - 1)) // cells


Bounds = Sequence[tuple[Operand, Operand]]


def window(
    code: Code,
    view: View,
    start: Value,
    bounds: Bounds,
    count: int,
    initial: float,
    join: Callable[[Value, Value], Value],
    of: Callable[[Value], Value] = lambda v: v,
) -> Value:
    """Write loops that join a function of vectors of channels over rows and columns known at run time.

    Each row is joined by itself, and each eight rows: long sums round less that way. Where the columns are
    constants, four joins go on at a time, to hide their latency.
    """
    (top, bottom), (left, right) = bounds
    fresh = code.vec(initial)

    def at(y: Operand, x: Operand) -> Value:
        return of(code.load(start + y * view.row_pitch + x * view.pixel_pitch, count))

    if not (isinstance(left, int) and isinstance(right, int)):

        def row(y: Operand, total: list[Value]) -> list[Value]:
            return [join(total[0], *code.carry(left, right, 1, [fresh], lambda x, t: [join(t[0], at(y, x))]))]

        return code.carry(top, bottom, 1, [fresh], row)[0]

    def four(y: Operand, totals: list[Value]) -> list[Value]:
        def some(x: Operand, totals: list[Value], columns: int = 8) -> list[Value]:
            for i in range(columns):
                totals[i % 4] = join(totals[i % 4], at(y, x + i))
            return totals

        rest = (right - left) % 8
        totals = code.carry(left, right - rest, 8, totals, some) if right - left > 32 else totals
        return some(right - rest, totals, rest) if right - left > 32 else some(left, totals, right - left)

    def rows(low: Operand, high: Operand) -> Value:
        return code.carry(
            low, high, 1, [fresh], lambda y, t: [join(t[0], functools.reduce(join, four(y, [fresh] * 4)))]
        )[0]

    if not (isinstance(top, int) and isinstance(bottom, int)):
        return rows(top, bottom)
    if (bottom - top) * (right - left) < _LONG:
        return functools.reduce(join, code.carry(top, bottom, 1, [fresh] * 4, four))
    rest = bottom - (bottom - top) % 8
    (total,) = code.carry(top, rest, 8, [fresh], lambda y, t: [join(t[0], rows(y, y + 8))])
    return join(total, rows(rest, bottom)) if rest < bottom else total


def largest(code: Code, a: Value, b: Value) -> Value:
    """Return the larger of two vectors, lane by lane; NaN if either is."""
    larger = code.select(code.compare("ogt", a, b), a, b)
    return code.select(code.compare("uno", a, a), a, larger)


def largest_of(code: Code, values: Sequence[Value]) -> Value:
    """Return the largest of some vectors, lane by lane; NaN if any is: what `largest` does, in half the work.

    Values are looked at for NaN two at a time.
    """
    found = functools.reduce(lambda a, b: code.select(code.compare("ogt", a, b), a, b), values)
    pairs = zip(values[::2], [*values[1::2], values[-1]], strict=False)
    numbers = [code.compare("ord", a, b) for a, b in pairs]
    all_numbers = functools.reduce(lambda a, b: code.emit(a.type, f"and {a.type} {a}, {b}"), numbers)
    return code.select(all_numbers, found, code.vec(nan))


def tree_sum(values: list[Value]) -> Value:
    """Return the sum, added pairwise."""
    while len(values) > 1:
        pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


def candidates(problem: Pool | AdaptivePool, target: Target) -> list[Kernel]:
    """Return the one way to do it, if the layouts allow."""
    if problem.x.channel_pitch != 1 or problem.y.channel_pitch != 1:
        return []
    if isinstance(problem, AdaptivePool):
        return [Cells(problem, target)]
    kernel = Window(problem, target)
    inside = kernel._inside(0) == (0, problem.y.height) and kernel._inside(1) == (0, problem.y.width)
    return [kernel] if inside or problem.dilation == (1, 1) else []
