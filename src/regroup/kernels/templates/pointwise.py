"""Elementwise work and copies: one vector of channels (or, writing NCHW, of pixels) after the other."""

from __future__ import annotations

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Constant, Pointwise
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div
from regroup.kernels.templates.parts.finish import Finish, Pixel
from regroup.kernels.templates.parts.stage import prepared
from regroup.kernels.templates.parts.walk import address, gather, share, transpose, vectors

_ITEMS = 16


class Elementwise(Kernel):
    """Scale, shift, activation, gate, product and sum of tensors; copies in another order or layout.

    Args:
        problem: the work.
        target: the CPU.
    """

    template = "elementwise"

    def __init__(self, problem: Pointwise, target: Target) -> None:
        super().__init__(problem, target)
        self.work = problem
        y = problem.y
        self.planar = y.channel_pitch != 1
        across = ceil_div(y.channels, target.lanes)
        static = problem.order is not None
        self.per_unit = 1 if static else min(across, max(1, _ITEMS // y.height))
        self.items, self.rows = y.height * self.per_unit, 1
        self.padded = across * target.lanes
        names = [name for name in ("in_scale", "in_shift", "bias") if name in problem.parameters]
        self.places = {name: i * self.padded for i, name in enumerate(names)}
        self.packed = len(names) * self.padded
        self.tile = f"1x{min(across, 4)}"
        self.cycles = y.height * y.width * across * 2.0 * len(problem.views)

    def _pack(self, parameters: Parameters) -> np.ndarray:
        packed = np.zeros(self.packed, np.float32)
        for name, start in self.places.items():
            packed[start : start + self.work.y.channels] = parameters[name]
        return packed

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        writer = _Writer(self, code, views)
        for item in code.each(low, high, name="item"):
            y = item // self.per_unit
            if self.planar:
                writer.planar_row(y, item % self.per_unit)
            else:
                writer.row(y, item % self.per_unit)
        return [code]


class _Writer:
    def __init__(self, kernel: Elementwise, code: Code, views: list[Value]) -> None:
        self.kernel, self.work, self.code = kernel, kernel.work, code
        rest = list(views)
        weights = rest.pop() if kernel.packed else None
        self.out, self.x = rest.pop(), rest.pop(0)
        names = {"in_scale": "scale", "in_shift": "shift", "bias": "bias"}
        self.pointers = {names[n]: weights + start for n, start in kernel.places.items() if weights}
        if self.work.prologue.gate is not None:
            self.pointers["gate"] = rest.pop(0)
        self.factor = rest.pop() if self.work.factor is not None else None
        self.finish = Finish(code, self.work.epilogue, self.work.y, [*rest, self.out])

    def row(self, y: Operand, part: Operand) -> None:
        """Write a row of channels-last output: all channels, or a part of them."""
        code, work = self.code, self.work
        if work.order is None and work.x.channel_pitch != 1:
            self._transposed_row(y, part)
            return
        static = work.order is not None
        for x in code.each(0, work.y.width, name="column"):
            source = address(work.x, self.x, y, x)
            channels = share(code, work.y.channels, part, self.kernel.per_unit)
            for c, count in self._static() if static else channels:
                if work.order is not None and isinstance(c, int):
                    offsets = [i * work.x.channel_pitch for i in work.order[c : c + count]]
                    v = gather(code, source, offsets, work.x.channels if work.x.channel_pitch == 1 else 0)
                else:
                    v = code.load(source + c, count)
                self.finish.store([self._value(v, y, x, c, count)], Pixel(y, x), c, [count])

    def _transposed_row(self, y: Operand, part: Operand) -> None:
        """Read squares of pixels and channels of an NCHW input, so that each cache line is read once.

        Planes that lie a power of two bytes apart share cache sets: lines of many would throw each other out.
        """
        code, work = self.code, self.work
        for c, count in share(code, work.y.channels, part, self.kernel.per_unit):
            source = self.x + y * work.x.row_pitch + c * work.x.channel_pitch
            for x, width in vectors(code, work.y.width):
                planes = [source + x + i * work.x.channel_pitch for i in range(count)]
                rows = [code.load(plane, width) for plane in planes]
                rows += [rows[0]] * (code.lanes - count)
                for dx, v in enumerate(transpose(code, rows)[:width]):
                    value = self._value(v, y, x + dx, c, count)
                    self.finish.store([value], Pixel(y, x, dx=dx), c, [count])

    def _static(self) -> list[tuple[int, int]]:
        lanes, channels = self.code.lanes, self.work.y.channels
        return [(c, min(lanes, channels - c)) for c in range(0, channels, lanes)]

    def _strided(self, pointer: Value, pitch: int, count: int) -> Value:
        v = self.code.vec(0.0)
        for lane in range(count):
            v = self.code.insert(v, self.code.load_scalar(pointer + lane * pitch), lane)
        return v

    def _value(self, v: Value, y: Operand, x: Operand, c: Operand, count: int) -> Value:
        v = prepared(self.code, self.work.prologue, self.pointers, c, count)(v)
        if self.factor is not None and self.work.factor is not None:
            v = v * self.code.load(address(self.work.factor, self.factor, y, x) + c, count)
        if "bias" in self.pointers:
            v = v + self.code.load(self.pointers["bias"] + c, count)
        return v

    def planar_row(self, y: Operand, part: Operand) -> None:
        """Write a row of an NCHW output: a vector holds pixels of one channel."""
        code, work = self.code, self.work
        if work.order is None and work.x.channel_pitch == 1:
            self._transposed_planes(y, part)
            return
        low = code.integer(part) * work.y.channels // self.kernel.per_unit
        high = (code.integer(part) + 1) * work.y.channels // self.kernel.per_unit
        table = None if work.order is None else code.table(work.order)
        for c in code.each(low, high, name="c"):
            channel = c if table is None else code.load_int(table, c)
            source = self.x + y * work.x.row_pitch + channel * work.x.channel_pitch
            target = self.out + y * work.y.row_pitch + c * work.y.channel_pitch
            for x, count in vectors(code, work.y.width):
                v = self._strided(source + x * work.x.pixel_pitch, work.x.pixel_pitch, count)
                code.store(v, target + x, count)

    def _transposed_planes(self, y: Operand, part: Operand) -> None:
        """Write squares of pixels and channels, so that each cache line is read and written once."""
        code, work = self.code, self.work
        for c, count in share(code, work.y.channels, part, self.kernel.per_unit):
            target = self.out + y * work.y.row_pitch + c * work.y.channel_pitch
            for x, width in vectors(code, work.y.width):
                source = address(work.x, self.x, y, x) + c
                pixels = [code.load(source + i * work.x.pixel_pitch, count) for i in range(width)]
                pixels += [pixels[0]] * (code.lanes - width)
                for i, v in enumerate(transpose(code, pixels)[:count]):
                    code.store(v, target + x + i * work.y.channel_pitch, width)


def candidates(work: Pointwise, target: Target) -> list[Elementwise]:
    """Return the one way to do it, if the layouts allow."""
    y, plain = work.y, work.prologue == type(work.prologue)() and work.epilogue == type(work.epilogue)()
    if y.channel_pitch != 1 and not (plain and work.factor is None and y.pixel_pitch == 1):
        return []
    others = [view for view in work.views[1:-1] if view is not work.prologue.gate]
    if any(view.channel_pitch != 1 for view in others):
        return []
    return [Elementwise(work, target)]


class Numbers(Kernel):
    """Constants, pixel by pixel."""

    template = "constant"

    def __init__(self, problem: Constant, target: Target) -> None:
        super().__init__(problem, target)
        y = problem.y
        self.items, self.rows, self.tile = y.height, 1, "1x1"
        self.packed = y.height * y.width * y.channels
        self.cycles = y.height * y.width * (2 + 2.0 * ceil_div(y.channels, target.lanes))

    def _pack(self, parameters: Parameters) -> np.ndarray:
        return parameters["numbers"].transpose(1, 2, 0).astype(np.float32).ravel()

    def _emit(self, name: str) -> list[Code]:
        code, (out, packed) = self._open(name)
        _, low, high, _ = code.arguments
        view = self.problem.y
        for y in code.each(low, high, name="row"):
            for x in code.each(0, view.width, name="column"):
                source = packed + (code.integer(y) * view.width + x) * view.channels
                for c, count in vectors(code, view.channels):
                    code.store(code.load(source + c, count), address(view, out, y, x) + c, count)
        return [code]


def constants(problem: Constant, target: Target) -> list[Kernel]:
    """Return the one way to write constants, if the layout allows."""
    return [Numbers(problem, target)] if problem.y.channel_pitch == 1 else []
