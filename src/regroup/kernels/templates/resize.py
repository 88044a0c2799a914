"""Resizing: a table of source positions and weights for rows, one for columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Resize
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


class Interpolate(Kernel):
    """Resizing, a row of outputs at a time.

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
        self.linear = problem.mode == "bilinear"
        self.packed = y.height + y.width if self.linear else 0
        self.tile = "1x1"
        self.cycles = y.height * y.width * ceil_div(y.channels, target.lanes) * (10.0 if self.linear else 3.0)

    def _pack(self, parameters: Parameters) -> np.ndarray:
        if not self.linear:
            return super()._pack(parameters)
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
        channels = vectors(code, self.resize.y.channels)
        if not self.linear:
            for c, count in channels:
                code.store(code.load(corners[0] + c, count), out + c, count)
            return
        down = code.broadcast(views[2] + place[0])
        right = code.broadcast(views[2] + place[1] + self.resize.y.height)
        for c, count in channels:
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


def candidates(problem: Resize, target: Target) -> list[Interpolate]:
    """Return the one way to do it, if the layouts allow."""
    return [] if {problem.x.channel_pitch, problem.y.channel_pitch} != {1} else [Interpolate(problem, target)]
