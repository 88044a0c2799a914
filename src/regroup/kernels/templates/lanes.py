"""Depthwise and narrow-grouped convolution: a vector of output channels spans whole groups.

A lane holds one output channel of a block; its group's j-th input channel is brought to it by a constant
permutation of the block's input vectors, and every permuted copy feeds all taps and pixels that need it.
Depthwise is the case of one channel a group and no permutation.

Where the j-th inputs of a block's groups lie side by side (`engine/layout.py` sees to it where it can), they
are loaded and repeated in one instruction: then neighbouring lanes belong to neighbouring groups, and only
the sums are permuted, once. A block that fills half a vector or less then takes two pixels at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from regroup.kernels.lang import Code, Operand, Value
from regroup.kernels.problem import Conv, Prologue
from regroup.kernels.target import Target
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div, choose, pieces, runs, split
from regroup.kernels.templates.blocks import Block, BlockRun, block_runs
from regroup.kernels.templates.finish import Finish, Pixel
from regroup.kernels.templates.walk import gather, repeat

_LONGEST = 2500
"""Multiply-adds that are written out at most; longer code takes seconds to compile."""

_ITEMS = 16
"""Enough work items to share evenly among threads; rows are cut by channels to reach it."""


class Lanes(Kernel):
    """Depthwise and narrow-grouped convolutions.

    Args:
        problem: the convolution, without prologue.
        target: the CPU.
        rows: output rows of a register tile.
        columns: output columns of a register tile.
        banded: work items are single rows of all channels, in order.
        pairs: each vector holds the sums of two pixels, half a tile apart.
    """

    def __init__(
        self,
        problem: Conv,
        target: Target,
        rows: int,
        columns: int,
        banded: bool = False,
        pairs: bool = False,
    ) -> None:
        super().__init__(problem, target)
        self.conv = conv = problem
        self.template = "depthwise" if conv.group_in == conv.group_out == 1 else "narrow groups"
        self.whole = max(1, target.lanes // conv.group_out) if conv.group_out > 1 else target.lanes
        self.block_runs = block_runs(conv, self.whole)
        self.blocks = count = sum(run.count for run in self.block_runs)
        self.pixels = 2 if pairs else 1
        self.units = runs(conv.y.height, min(rows, conv.y.height))
        halves = split(conv.y.width // self.pixels, columns)
        self.columns = [(start * self.pixels, width, n) for start, width, n in halves]
        self.tile_rows, self.banded = self.units[0][1], banded
        # a 1x1 convolution of so many channels goes by weights: a thread finds here what it has written
        self.by_weights = not banded and conv.y.channels > conv.y.height * conv.y.width
        self.rows = 1 if banded else 0 if self.by_weights else self.tile_rows
        self.per_unit = 1 if banded else min(count, max(1, ceil_div(_ITEMS, pieces(self.units))))
        self.items = conv.y.height if banded else pieces(self.units) * self.per_unit
        self.terms = conv.kernel_size[0] * conv.kernel_size[1] * conv.group_in
        self.packed = count * (self.terms + 1) * target.lanes
        self.tile = f"{self.tile_rows}x{self.columns[0][1] * self.pixels}"
        self.cycles = self._estimate() * count

    def _estimate(self) -> float:
        """Estimate the cycles of one vector of output channels.

        Permutations run beside the multiply-adds, half as many at a time. Input vectors that do not stay
        in registers are loaded for every permutation.
        """
        conv, registers, total = self.conv, self.target.registers, 0.0
        (kh, kw), (sh, sw) = conv.kernel_size, conv.stride
        sources, permutations, loads_each = self._sources()
        for _, rows, units in self.units:
            for _, width, tiles in self.columns:
                across = min((width - 1) * sw, width * kw) + kw
                inputs = (min((rows - 1) * sh, rows * kh) + kh) * across
                work, outputs = rows * width * self.terms, rows * width
                resident = outputs + across * sources + kw <= registers - 4
                weights = self.terms if outputs + min(rows, kh) * kw + 2 <= registers else work
                loads = weights + inputs * (sources if resident else loads_each)
                cycles = max(work / 2 + inputs * permutations / 4, loads / 2, 1.5 * self.terms / kw)
                cycles *= 1.25 if sources > 1 and not resident else 1.0
                total += units * tiles * (cycles + 6 * kh * (rows == 1) + 12 + 2 * outputs)
        return total

    def _sources(self) -> tuple[int, int, int]:
        """Return of a block: its input vectors, its permutations, and the vectors that these read."""
        lanes, block = self.target.lanes, self.block_runs[0].block
        if self.template == "depthwise":
            return 1, 0, 1
        picks = [block.spread(row) for row in block.picks]
        if block.repeats:
            return len(picks), 0, len(picks) * self.pixels
        used = [len({o // lanes for o in row}) for row in picks]
        return len({o // lanes for row in picks for o in row}), sum(max(1, n - 1) for n in used), sum(used)

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        writer = _Writer(self, code, views)
        if self.banded:
            tiles = (high - low) // self.tile_rows
            for tile in code.each(0, tiles):
                writer.rows(low + tile * self.tile_rows, self.tile_rows, 0)
            for y in code.each(low + tiles * self.tile_rows, high):
                writer.rows(y, 1, 0)
            return [code]
        for item in code.each(low, high):
            unit, part = item // self.per_unit, item % self.per_unit
            if self.by_weights:
                unit, part = item % pieces(self.units), item // pieces(self.units)
            choose(code, unit, self.units, lambda y, run, p=part: writer.rows(y, run[1], p))
        return [code]

    def _pack(self, parameters: Parameters) -> np.ndarray:
        conv, lanes = self.conv, self.target.lanes
        weight = parameters["weight"].reshape(conv.y.channels, conv.group_in, -1).transpose(2, 1, 0)
        rows = weight.reshape(self.terms, conv.y.channels)
        bias = parameters["bias"] if conv.epilogue.bias else np.zeros(conv.y.channels, np.float32)
        table = np.concatenate([bias[None], rows])
        packed = np.zeros((self.blocks, self.terms + 1, self.pixels, lanes // self.pixels), np.float32)
        number = 0
        for run in self.block_runs:
            for i in range(run.count):
                mine = [run.output + i * run.block.outputs + lane for lane in run.block.lanes]
                packed[number, :, :, : len(mine)] = table[:, None, mine]
                number += 1
        return packed.ravel()


class _Writer:
    def __init__(self, kernel: Lanes, code: Code, views: list[Value]) -> None:
        self.kernel, self.conv, self.code = kernel, kernel.conv, code
        self.x, self.weights = views[0], views[-1]
        self.finish = Finish(code, self.conv.epilogue, self.conv.y, views[1:-1])

    def rows(self, y: Operand, rows: int, part: Operand) -> None:
        """Write the outputs of some rows; of all channel blocks, or of one part of them."""
        code, kernel = self.code, self.kernel
        first = 0
        for first_column, width, count in kernel.columns:
            for i in code.each(0, count):
                column = i * (width * kernel.pixels) + first_column
                first = 0
                for run in kernel.block_runs:
                    low, high = _share(code, first, run.count, part, kernel)
                    for b in code.each(low, high):
                        self._tile(run, (b - first) if first else b, b, (y, rows), (column, width))
                    first += run.count

    def _tile(
        self,
        run: BlockRun,
        index: Operand,
        number: Operand,
        rows: tuple[Operand, int],
        columns: tuple[Operand, int],
    ) -> None:
        code, conv, kernel, block = self.code, self.conv, self.kernel, run.block
        (y, height), (x, width) = rows, columns
        inputs = index * run.stride + run.input
        outputs = index * block.outputs + run.output
        weights = self.weights + number * ((kernel.terms + 1) * code.lanes)
        corner = -conv.padding[0] * conv.x.row_pitch - conv.padding[1] * conv.x.pixel_pitch
        at = self.x + y * (conv.stride[0] * conv.x.row_pitch)
        at = at + x * (conv.stride[1] * conv.x.pixel_pitch) + corner + inputs
        self.width = width
        sums = self._sums(block, at, weights, height, width)
        for (dy, dx), total in sums.items():
            for side in range(kernel.pixels):
                mine = self._in_order(block, total, side)
                self.finish.store([mine], Pixel(y, x, dy, dx + side * width), outputs, [block.outputs])

    def _in_order(self, block: Block, total: Value, side: int) -> Value:
        """Return the output channels of one of a vector's pixels, in order."""
        lanes, first = block.lanes, side * (self.code.lanes // self.kernel.pixels)
        picks = [first + lanes.index(c) for c in range(block.outputs)]
        if picks == list(range(block.outputs)):
            return total
        return self.code.permute(total, picks + [-1] * (self.code.lanes - len(picks)))

    def _sums(
        self, block: Block, at: Value, weights: Value, height: int, width: int
    ) -> dict[tuple[int, int], Value]:
        """Write the sums of a tile: row of inputs by row of inputs.

        One row of outputs takes its rows of taps in a loop, which keeps the code short; several rows share
        input rows, so their code is written out.
        """
        code, conv = self.code, self.conv
        kh, stride, dilation = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
        places = [(oy, ox) for oy in range(height) for ox in range(width)]
        bias, weights = code.load(weights), weights + code.lanes
        # few terms may as well start from the bias; on top of a large one many would round more
        last = conv.group_in > 1
        sums = [code.vec(0.0) if last else bias] * len(places)
        row = conv.kernel_size[1] * conv.group_in * code.lanes
        if height == 1:

            def body(ky: Operand, sums: list[Value]) -> list[Value]:
                here = at + ky * (dilation * conv.x.row_pitch)
                return self._row(block, here, weights + ky * row, [(0, 0)], sums)

            sums = code.carry(0, kh, 1, sums, body)
        else:
            for iy in sorted({oy * stride + ky * dilation for oy in range(height) for ky in range(kh)}):
                uses = [
                    (oy, (iy - oy * stride) // dilation)
                    for oy in range(height)
                    if _is_tap(iy - oy * stride, dilation, kh)
                ]
                sums = self._row(block, at + iy * conv.x.row_pitch, weights, uses, sums)
        sums = [total + bias for total in sums] if last else sums
        return dict(zip(places, sums, strict=True))

    def _row(
        self, block: Block, at: Value, weights: Value, uses: list[tuple[int, int]], sums: list[Value]
    ) -> list[Value]:
        """Write what one row of inputs adds: to output rows `oy` by tap rows `ky`, the pairs of `uses`."""
        code, inputs = self.code, self.conv.group_in
        if not block.looped:
            for j, row in enumerate(block.picks):
                taps = weights + j * code.lanes
                sums = self._products(lambda at, row=row: self._input(block, row, at), at, taps, uses, sums)
            return sums
        table = code.table([row[0] for row in block.picks])
        step = next(s for s in (4, 3, 2, 1) if inputs % s == 0)

        def body(j: Operand, sums: list[Value]) -> list[Value]:
            for i in range(step):
                here = at + code.load_int(table, j + i)
                taps = weights + (j + i) * code.lanes
                sums = self._products(lambda at: self._repeated(block, at), here, taps, uses, sums)
            return sums

        return code.carry(0, inputs, step, sums, body)

    def _products(
        self,
        load: Callable[[Value], Value],
        at: Value,
        weights: Value,
        uses: list[tuple[int, int]],
        sums: list[Value],
    ) -> list[Value]:
        """Write what one input of each group adds, along a row."""
        code, conv = self.code, self.conv
        (_, kw), stride, dilation = conv.kernel_size, conv.stride[1], conv.dilation[1]
        sums, width = list(sums), self.width
        taps = {
            (ky, kx): code.load(weights + (ky * kw + kx) * conv.group_in * code.lanes)
            for _, ky in uses
            for kx in range(kw)
        }
        for ix in sorted({ox * stride + kx * dilation for ox in range(width) for kx in range(kw)}):
            v = load(at + ix * conv.x.pixel_pitch)
            for kx in range(kw):
                ox, rest = divmod(ix - kx * dilation, stride)
                if rest or not 0 <= ox < width:
                    continue
                for oy, ky in uses:
                    sums[oy * width + ox] = code.fma(v, taps[ky, kx], sums[oy * width + ox])
        return sums

    def _input(self, block: Block, row: tuple[int, ...], at: Value) -> Value:
        """Return the vector of one input of each group, for the pixel at an address."""
        if block.repeats:
            return self._repeated(block, at + row[0])
        return gather(self.code, at, block.spread(row), block.limit)

    def _repeated(self, block: Block, at: Value) -> Value:
        code, conv = self.code, self.conv
        v = repeat(code, at, block.groups)
        if self.kernel.pixels == 1:
            return v
        other = repeat(code, at + self.width * conv.stride[1] * conv.x.pixel_pitch, block.groups)
        return code.select(code.lane_mask(range(code.lanes // 2, code.lanes)), other, v)


def _is_tap(distance: int, dilation: int, taps: int) -> bool:
    return distance % dilation == 0 and 0 <= distance // dilation < taps


def _share(code: Code, first: int, number: int, part: Operand, kernel: Lanes) -> tuple[Operand, Operand]:
    """Return the blocks of a run, numbered from `first`, that belong to `part` of a row's blocks."""
    if kernel.per_unit == 1:
        return first, first + number
    part, count = code.value(part, "i64"), kernel.blocks
    low, high = part * count // kernel.per_unit, (part + 1) * count // kernel.per_unit
    return code.larger(low, first), code.smaller(high, first + number)


def candidates(conv: Conv, target: Target, banded: bool = False) -> list[Lanes]:
    """Return tiles for a convolution whose groups are no wider than a vector on the output side."""
    suits = conv.group_out <= target.lanes and conv.prologue == Prologue() and conv.x.channel_pitch == 1
    if not suits or conv.groups == 1 or conv.group_in > 4 * target.lanes:
        return []
    registers32 = target.registers == 32
    shapes = [(1, 14), (1, 7), (1, 4)] if registers32 else [(1, 7), (1, 5)]
    if (
        conv.kernel_size[1] == 1 and conv.group_in > 1
    ):  # each permuted vector serves one product: keep them few
        shapes = shapes[1:]
    if conv.group_in == 1 and conv.kernel_size[0] <= 3:  # short enough to write several rows out
        shapes += [(2, 7), (3, 5), (4, 4)] if registers32 else [(2, 3)]
    whole = max(1, target.lanes // conv.group_out)
    blocks = block_runs(conv, whole)
    inputs = sum(4 if run.block.looped else conv.group_in for run in blocks)
    row = inputs * conv.kernel_size[1]
    halves = 2 * conv.groups * conv.group_out <= target.lanes and blocks[0].block.repeats
    pairs = halves and conv.y.width % 2 == 0
    if pairs:
        shapes += [(2, 7), (2, 4)]
    shapes = [(rows, columns) for rows, columns in shapes if row * rows * columns <= _LONGEST]
    return [Lanes(conv, target, rows, columns, banded, pairs) for rows, columns in shapes]
