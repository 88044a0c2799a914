"""Convolution by scalar broadcast: a register tile of pixels times vectors of output channels.

One input element, broadcast, feeds all vectors of its pixel; one vector of weights feeds all pixels. Inputs
are read one by one, so any channel order of the input is free; each group is a convolution of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv, Linear, Prologue
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.templates.base import Kernel, Parameters, Run, ceil_div, choose, pieces, runs, split
from regroup.kernels.templates.parts.fetch import fetch_ahead
from regroup.kernels.templates.parts.finish import Finish, Pixel
from regroup.kernels.templates.parts.reduce import Reduction, Turn
from regroup.kernels.templates.parts.stage import Direct, Source, Unit, pack_prologue, stage
from regroup.kernels.templates.parts.tail import Tail
from regroup.kernels.templates.parts.tiles import (
    by_block,
    channel_blocks,
    register_tiles,
    term_cycles,
    valid_lanes,
)

_STREAMED = 1 << 16
"""Floats (256 KiB): more weights than this come from far away; they are fetched early."""


class Dense(Kernel):
    """Dense, wide-grouped and first-layer convolutions.

    Args:
        problem: the convolution.
        target: the CPU.
        pixels: pixels of a register tile.
        vectors: vectors of output channels of a register tile.
        banded: work items go row by row, all channels of a row one after the other.
    """

    template = "broadcast"

    def __init__(
        self, problem: Conv, target: Target, pixels: int, vectors: int, banded: bool = False
    ) -> None:
        super().__init__(problem, target)
        self.conv = conv = problem if banded else flattened(problem)
        self.flat = conv is not problem
        height, width, lanes = conv.y.height, conv.y.width, target.lanes
        rows = 1 if self.flat or banded else max(1, min(pixels // width, height))
        self.columns = split(width, pixels)
        self.units = self.columns if self.flat else runs(height, rows)
        self.blocks = channel_blocks(conv.group_out, lanes, vectors)
        self.tail = Tail.of(conv.group_out, lanes) if self.blocks[-1][1] > 1 else None
        self.terms = conv.group_in * conv.kernel_size[0] * conv.kernel_size[1]
        widest = self.columns[0][1]
        self.stage = stage(conv, rows, widest if self.flat else width)
        self.scratch = self.stage.floats
        self.head = len(pack_prologue(conv, lanes, {}))
        self.group_floats = ceil_div(conv.group_out, lanes) * (self.terms + 1) * lanes
        self.packed = self.head + conv.groups * self.group_floats
        self.tile = f"{rows * widest}x{vectors}"
        self.staged = not isinstance(self.stage, Direct)
        weights_first = self.packed > height * width * conv.x.channels
        self.by_weights = weights_first and not (self.staged or banded)
        self.per_unit = 1 if self.staged else conv.groups * pieces(self.blocks)
        self.items = pieces(self.units) * self.per_unit
        self.rows = 0 if self.flat or self.by_weights else rows
        self.cycles = self._estimate(rows)

    def _estimate(self, rows: int) -> float:
        pitch = self.conv.x.pixel_pitch * self.conv.stride[1]
        tails = [None] * (len(self.blocks) - 1) + [self.tail]
        one_unit = sum(
            tiles * n * (self.terms * term_cycles(rows * width, nv, pitch, tail) + 12 + 2 * rows * width * nv)
            for _, width, tiles in self.columns
            for (_, nv, n), tail in zip(self.blocks, tails, strict=True)
        )
        return one_unit * self.conv.groups * (1 if self.flat else pieces(self.units))

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        writer = _Writer(self, code, views)
        _, low, high, _ = code.arguments
        for item in code.each(low, high, name="item"):
            if self.staged:
                writer.staged(item)
            elif self.by_weights:
                count = pieces(self.units)
                writer.item(item % count, item // count)
            else:
                writer.item(item // self.per_unit, item % self.per_unit)
        return [code]

    def _pack(self, parameters: Parameters) -> np.ndarray:
        conv, lanes = self.conv, self.target.lanes
        weight = parameters["weight"].reshape(conv.groups, conv.group_out, conv.group_in, -1)
        terms = weight.transpose(0, 3, 2, 1).reshape(conv.groups, self.terms, conv.group_out)
        table = np.zeros((conv.groups, self.terms + 1, self.group_floats // (self.terms + 1)), np.float32)
        table[:, 1:, : conv.group_out] = terms
        if conv.epilogue.bias:
            table[:, 0, : conv.group_out] = parameters["bias"].reshape(conv.groups, -1)
        if self.tail is not None:
            table[:, 1:, -lanes:] = self.tail.repeat(table[:, 1:, -lanes:])
        packed = by_block(table, self.blocks, lanes)
        return np.concatenate([pack_prologue(conv, lanes, parameters), packed.ravel()])


class _Writer:
    """Writes one function: `item` and `staged` are the two shapes of a work item."""

    def __init__(self, kernel: Dense, code: Code, views: list[Value]) -> None:
        self.kernel, self.conv, self.code = kernel, kernel.conv, code
        gated = self.conv.prologue.gate is not None
        half = kernel.head // 2
        self.pointers = {"x": views[0], "scratch": code.arguments[3], "gate": views[1]}
        self.pointers |= {"scale": views[-1], "shift": views[-1] + half}
        self.weights = views[-1] + kernel.head
        self.finish = Finish(code, self.conv.epilogue, self.conv.y, views[1 + gated : -1])

    def item(self, unit: Operand, block: Operand) -> None:
        """Write one block of output channels of one unit of pixels."""
        count = pieces(self.kernel.blocks)
        group = 0 if self.conv.groups == 1 else block // count

        def in_unit(start: Operand, run: Run) -> None:
            there = self._unit(start, run)
            source = self.kernel.stage.emit(self.code, self.pointers, there)
            choose(
                self.code,
                block % count,
                self.kernel.blocks,
                lambda vector, run: self._block(there, source, group, vector, run, unit),
            )

        choose(self.code, unit, self.kernel.units, in_unit)

    def staged(self, unit: Operand) -> None:
        """Write all output channels of one unit of pixels, after a copy of its input."""

        def in_unit(start: Operand, run: Run) -> None:
            there = self._unit(start, run)
            source = self.kernel.stage.emit(self.code, self.pointers, there)
            for group in self.code.each(0, self.conv.groups, name="group"):
                for run in self.kernel.blocks:
                    for i in self.code.each(0, run[2]):
                        self._block(there, source, group, i * run[1] + run[0], run)

        choose(self.code, unit, self.kernel.units, in_unit)

    def _unit(self, start: Operand, run: Run) -> Unit:
        if self.kernel.flat:
            return Unit(0, start, 1, run[1])
        return Unit(start, 0, run[1], self.conv.y.width)

    def _block(
        self,
        unit: Unit,
        source: Source,
        group: Operand,
        vector: Operand,
        run: Run,
        number: Operand = 0,
    ) -> None:
        lanes, kernel = self.code.lanes, self.kernel
        counts = valid_lanes(self.conv.group_out, run, lanes)
        weights = self.weights + group * kernel.group_floats + vector * ((kernel.terms + 1) * lanes)
        channel = group * self.conv.group_out + vector * lanes
        columns = [(0, unit.width, 1)] if kernel.flat else kernel.columns
        done = 0
        for first, width, count in columns:
            for i in self.code.each(0, count):
                column, turn = i * width + first, self._turn(run[1], number, i + done)
                self._tile(unit, source, (column, width), (group, channel), weights, counts, turn)
            done += count

    def _turn(self, vectors: int, unit: Operand, column: Operand) -> Turn | None:
        """Return which share of the next block's weights a tile fetches early: units of pixels share them."""
        kernel = self.kernel
        if not kernel.by_weights or kernel.packed < _STREAMED:
            return None
        columns = 1 if kernel.flat else pieces(kernel.columns)
        number = self.code.integer(unit) * columns + column
        block = (kernel.terms + 1) * vectors * self.code.lanes
        return Turn(block, number, pieces(kernel.units) * columns)

    def _tile(
        self,
        unit: Unit,
        source: Source,
        columns: tuple[Operand, int],
        place: tuple[Operand, Operand],
        weights: Value,
        counts: list[int],
        turn: Turn | None,
    ) -> None:
        (column, width), (group, channel) = columns, place
        lanes, nv = self.code.lanes, len(counts)
        pixels = [(dy, dx) for dy in range(unit.rows) for dx in range(width)]
        offsets = [source.pixel(dy, dx) for dy, dx in pixels]
        start = source.pointer + column * (source.stride[1] * source.pixel_pitch)
        tail = self.kernel.tail if counts[-1] < lanes else None
        fetch_ahead(self.code)
        sums = Reduction(self.code, self.conv, source, offsets, nv, tail, turn).write(
            start, group, weights + nv * lanes
        )
        # the bias last: a large one would make every sum on top of it round more
        self.code.note("bias and epilogue")
        bias = [self.code.load(weights + v * lanes, name="bias") for v in range(nv)]
        for (dy, dx), mine in zip(pixels, sums, strict=True):
            pixel = Pixel(unit.y, unit.x + column, dy, dx)
            total = [s + b for s, b in zip(mine, bias, strict=True)]
            self.finish.store(total, pixel, channel, counts)


def flattened(conv: Conv) -> Conv:
    """Return a 1x1 convolution as one over a single row of pixels, if its views have no gaps; else itself."""
    epilogue = conv.epilogue
    views = [conv.x, conv.y, *([epilogue.residual] if epilogue.residual else [])]
    plain = (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (1, 1), (0, 0))
    dense = all(v.channel_pitch == 1 and v.row_pitch == v.width * v.pixel_pitch for v in views)
    if not (plain and dense) or epilogue.residual_scale != 1:
        return conv
    x, y, *residual = (_one_row(view) for view in views)
    return replace(conv, x=x, y=y, epilogue=replace(epilogue, residual=residual[0] if residual else None))


def _one_row(view: View) -> View:
    pixels = view.height * view.width
    return replace(view, height=1, width=pixels, row_pitch=pixels * view.pixel_pitch, halo=Halo())


def candidates(conv: Conv, target: Target, banded: bool = False) -> list[Dense]:
    """Return the register tiles that fit the target's registers."""
    if conv.prologue != Prologue() and (conv.kernel_size != (1, 1) or any(conv.padding)):
        return []
    if conv.y.channel_pitch != 1:
        return []
    most = ceil_div(conv.group_out, target.lanes)
    shapes = register_tiles(target, most)
    tail = Tail.of(conv.group_out, target.lanes)
    if tail is not None and most == 2:  # what it saves leaves registers for more pixels
        shapes.append((16 if target.registers == 32 else 8, 2))
    return [Dense(conv, target, pixels, vectors, banded) for pixels, vectors in shapes]


def linear(problem: Linear, target: Target) -> Dense:
    """Return a linear layer as a 1x1 convolution of one pixel; its blocks of weights stream by once."""
    conv = Conv(problem.x, problem.y, problem.prologue, problem.epilogue, order=problem.order)
    return _Streamed(conv, target, 1, 4)


class _Streamed(Dense):
    template = "linear"

    def _pack(self, parameters: Parameters) -> np.ndarray:
        weight = parameters["weight"]
        return super()._pack({**parameters, "weight": weight.reshape(*weight.shape, 1, 1)})
