"""Nearest and bilinear resizing: a table of source positions and weights for rows, one for columns."""

from __future__ import annotations

import math

import numpy as np

from regroup.kernels.lang import Code, Operand, Value
from regroup.kernels.problem import Resize
from regroup.kernels.target import Target
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div
from regroup.kernels.templates.walk import address, vectors


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
        x, y = problem.x, problem.y
        scale = problem.scale or (None, None)
        self.rows_at = positions(problem, x.height, y.height, scale[0])
        self.columns_at = positions(problem, x.width, y.width, scale[1])
        self.items, self.rows = y.height, 1
        self.linear = problem.mode == "bilinear"
        self.packed = y.height + y.width if self.linear else 0
        self.tile = "1x1"
        self.cycles = y.height * y.width * ceil_div(y.channels, target.lanes) * (10.0 if self.linear else 3.0)

    def _pack(self, parameters: Parameters) -> np.ndarray:
        if not self.linear:
            return super()._pack(parameters)
        return np.array([w for _, _, w in self.rows_at + self.columns_at], np.float32)

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        axes = (self.rows_at, self.columns_at)
        tables = [[code.table([a for a, _, _ in axis]) for axis in axes]]
        tables.append([code.table([b for _, b, _ in axis]) for axis in axes])
        for y in code.each(low, high):
            top, bottom = (code.load_int(table[0], y) for table in tables)
            for x in code.each(0, self.resize.y.width):
                left, right = (code.load_int(table[1], x) for table in tables)
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


def positions(problem: Resize, source: int, out: int, scale: float | None) -> list[tuple[int, int, float]]:
    """Return for each output index its two source indices and the weight of the second (as PyTorch)."""
    f32 = np.float32
    if problem.mode == "bilinear" and problem.align_corners:
        step = f32(source - 1) / f32(out - 1) if out > 1 else f32(0)
    else:
        step = f32(1 / scale) if scale else f32(source) / f32(out)
    found = []
    for i in range(out):
        if problem.mode == "nearest":
            first = min(math.floor(f32(i) * step), source - 1)
            found.append((first, first, 0.0))
            continue
        real = f32(i) * step if problem.align_corners else max((f32(i) + f32(0.5)) * step - f32(0.5), f32(0))
        first = min(int(real), source - 1)
        found.append((first, min(first + 1, source - 1), float(min(max(real - f32(first), f32(0)), f32(1)))))
    return found


def candidates(problem: Resize, target: Target) -> list[Interpolate]:
    """Return the one way to do it, if the layouts allow."""
    return [] if {problem.x.channel_pitch, problem.y.channel_pitch} != {1} else [Interpolate(problem, target)]
