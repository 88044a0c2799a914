"""Pixels from elsewhere: a table of source positions for rows, one for columns; for resizing, weights too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Pick, Problem, Resize
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div
from regroup.kernels.templates.parts.walk import address, vectors

_SMALL = 128
"""Up to this height plus width of its output PyTorch has "nearest" done by another loop."""


@dataclass(frozen=True)
class Positions:
    """Where the outputs of one axis come from.

    Attributes:
        first: for each output a source index.
        second: a neighbour of it.
        weight: of the second; the first has the rest.
    """

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray

    @classmethod
    def nearest(cls, index: np.ndarray, source: int) -> Positions:
        """Return the positions that take one source alone."""
        index = np.minimum(index, source - 1).astype(np.int64)
        return cls(index, index, np.zeros(len(index), np.float32))


class Picked(Kernel):
    """Each output pixel is one of the input's or a constant, a row of outputs at a time.

    Args:
        problem: what is done.
        target: the CPU.
        rows: source of each row of outputs, negative where the constant fills it.
        columns: of each column, likewise.
        value: the constant.
    """

    template = "pick"

    def __init__(
        self,
        problem: Problem,
        target: Target,
        rows: Sequence[int],
        columns: Sequence[int],
        value: float = 0.0,
    ) -> None:
        super().__init__(problem, target)
        self.sources, self.value, y = (rows, columns), value, problem.y
        self.items, self.rows = y.height, 1
        self.tile = "1x1"
        self.cycles = y.height * y.width * ceil_div(y.channels, target.lanes) * 3.0

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        rows, columns = (code.table(list(of)) for of in self.sources)
        width = len(self.sources[1])
        for y in code.each(low, high, name="row"):
            top = code.load_int(rows, y)

            def picked(y: Operand = y, top: Value = top) -> None:
                for start, stop, there in _stretches(self.sources[1]):
                    if there:
                        self._pick(code, views, (y, top), (start, stop), columns)
                    else:
                        self._fill(code, views[1], y, (start, stop))

            if min(self.sources[0]) >= 0:
                picked()
            else:
                there = code.compare("sge", top, 0)
                code.either(there, picked, lambda y=y: self._fill(code, views[1], y, (0, width)))
        return [code]

    def _pick(
        self,
        code: Code,
        views: list[Value],
        rows: tuple[Operand, Operand],
        stretch: tuple[int, int],
        columns: Value,
    ) -> None:
        x, y = self.problem.x, self.problem.y
        for column in code.each(*stretch, name="column"):
            source = address(x, views[0], rows[1], code.load_int(columns, column))
            out = address(y, views[1], rows[0], column)
            for c, count in vectors(code, y.channels):
                code.store(code.load(source + c, count), out + c, count)

    def _fill(self, code: Code, pointer: Value, row: Operand, stretch: tuple[int, int]) -> None:
        view = self.problem.y
        for column in code.each(*stretch, name="column"):
            for c, count in vectors(code, view.channels):
                code.store(code.vec(self.value), address(view, pointer, row, column) + c, count)


def _stretches(sources: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, stop, whether there are sources) for stretches that are alike."""
    start = 0
    for there, group in groupby(sources, lambda source: source >= 0):
        stop = start + len(list(group))
        yield start, stop, there
        start = stop


class Interpolate(Kernel):
    """Resizing by two in each direction, a row of outputs at a time.

    The weights of the lower and the right neighbours are packed as if they were parameters.

    Args:
        problem: the resizing.
        target: the CPU.
    """

    template = "resize"

    def __init__(self, problem: Resize, target: Target) -> None:
        super().__init__(problem, target)
        self.resize = problem
        y = problem.y
        self.axes = tables(problem)
        self.items, self.rows = y.height, 1
        self.packed = y.height + y.width
        self.tile = "1x1"
        self.cycles = y.height * y.width * ceil_div(y.channels, target.lanes) * 10.0

    def _pack(self, parameters: Parameters) -> np.ndarray:
        return np.concatenate([axis.weight for axis in self.axes])

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        rows, columns = ([code.table(a.first.tolist()), code.table(a.second.tolist())] for a in self.axes)
        for y in code.each(low, high, name="row"):
            top, bottom = (code.load_int(table, y) for table in rows)
            for x in code.each(0, self.resize.y.width, name="column"):
                left, right = (code.load_int(table, x) for table in columns)
                self._pixel(code, views, (y, x), (top, bottom), (left, right))
        return [code]

    def _pixel(
        self,
        code: Code,
        views: list[Value],
        place: tuple[Operand, Operand],
        rows: tuple[Value, Value],
        columns: tuple[Value, Value],
    ) -> None:
        view, out = self.resize.x, address(self.resize.y, views[1], *place)
        corners = [address(view, views[0], r, c) for r in rows for c in columns]
        down = code.broadcast(views[2] + place[0])
        right = code.broadcast(views[2] + place[1] + self.resize.y.height)
        for c, count in vectors(code, self.resize.y.channels):
            a, b, d, e = (code.load(corner + c, count) for corner in corners)
            upper = code.fma(b, right, a * (1.0 - right))
            lower = code.fma(e, right, d * (1.0 - right))
            code.store(code.fma(lower, down, upper * (1.0 - down)), out + c, count)


def tables(problem: Resize) -> tuple[Positions, Positions]:
    """Return where each row and each column of outputs comes from."""
    x, y = problem.x, problem.y
    small = y.height + y.width <= _SMALL
    axes = ((x.height, y.height, problem.scale[0]), (x.width, y.width, problem.scale[1]))
    rows, columns = (positions(problem, *axis, small) for axis in axes)
    return rows, columns


def positions(problem: Resize, source: int, out: int, scale: float | None, small: bool) -> Positions:
    """Return where the outputs of one axis come from, to the last bit as PyTorch on contiguous tensors.

    PyTorch (ATen, UpSample.h and cpu/UpSampleKernel.cpp) goes by the factor that the user gave, not by the
    sizes, and computes in float32 with fused multiply-adds. Sizes that are equal, or one exactly twice the
    other, it takes as they are whatever the factor: for "bilinear" equal ones always, for "nearest" both
    where the image is `small`.
    """
    i, half = np.arange(out, dtype=np.float32), np.float32(0.5)
    if problem.mode == "nearest" and small and out in (source, 2 * source):
        return Positions.nearest(np.arange(out) * source // out, source)
    step = _step(problem, source, out, scale)
    if problem.mode == "nearest":
        return Positions.nearest(np.floor(i * step), source)
    if problem.mode == "nearest-exact":
        return Positions.nearest(np.floor((i + half) * step), source)
    if out == source:
        return Positions.nearest(i, source)
    real = i * step if problem.align_corners else _less_half(i + half, step)
    first = np.minimum(np.floor(real), np.float32(source - 1))
    weight = np.clip(real - first, np.float32(0), np.float32(1))
    second = np.minimum(first + 1, source - 1)
    return Positions(first.astype(np.int64), second.astype(np.int64), weight)


def _step(problem: Resize, source: int, out: int, scale: float | None) -> np.float32:
    """Return how far apart in the source two neighbouring outputs are."""
    if problem.align_corners:
        return np.float32(source - 1) / np.float32(out - 1) if out > 1 else np.float32(0)
    return np.float32(1 / scale) if scale is not None and scale > 0 else np.float32(source) / np.float32(out)


def _less_half(i: np.ndarray, step: np.float32) -> np.ndarray:
    """Return i * step - 1/2, rounded once and not below 0."""
    return np.maximum((i.astype(np.float64) * np.float64(step) - 0.5).astype(np.float32), np.float32(0))


def candidates(problem: Resize | Pick, target: Target) -> list[Kernel]:
    """Return the one way to do it, if the layouts allow."""
    if {problem.x.channel_pitch, problem.y.channel_pitch} != {1}:
        return []
    if isinstance(problem, Pick):
        return [Picked(problem, target, problem.rows, problem.columns, problem.value)]
    if problem.mode == "bilinear":
        return [Interpolate(problem, target)]
    rows, columns = (axis.first.tolist() for axis in tables(problem))
    return [Picked(problem, target, rows, columns)]
