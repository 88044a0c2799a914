"""Depthwise and narrow-grouped convolution: a vector of output channels spans whole groups.

Lane l holds output channel l of a block; its group's j-th input channel is brought to it by a constant
permutation of the block's input vectors, and every permuted copy feeds all taps and pixels that need it.
Depthwise is the case of one channel a group and no permutation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regroup.kernels.lang import Code, Operand, Value
from regroup.kernels.problem import Conv, Prologue
from regroup.kernels.target import Target
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div, choose, pieces, runs, split
from regroup.kernels.templates.finish import Finish, Pixel
from regroup.kernels.templates.walk import gather

_LONGEST = 2500
"""Multiply-adds that are written out at most; longer code takes seconds to compile."""

_ITEMS = 16
"""Enough work items to share evenly among threads; rows are cut by channels to reach it."""


@dataclass(frozen=True)
class _Block:
    """Output channels that one vector holds, and where their inputs come from.

    Attributes:
        outputs: valid lanes.
        limit: input channels from the block's first on that may be read.
        picks: for each input j of a group, the input channel of each lane, counted from the block's first.
    """

    outputs: int
    limit: int
    picks: tuple[tuple[int, ...], ...]


class Lanes(Kernel):
    """Depthwise and narrow-grouped convolutions.

    Args:
        problem: the convolution, without prologue.
        target: the CPU.
        rows: output rows of a register tile.
        columns: output columns of a register tile.
        banded: work items are single rows of all channels, in order.
    """

    def __init__(self, problem: Conv, target: Target, rows: int, columns: int, banded: bool = False) -> None:
        super().__init__(problem, target)
        self.conv = conv = problem
        self.template = "depthwise" if conv.group_in == conv.group_out == 1 else "narrow groups"
        self.whole = max(1, target.lanes // conv.group_out) if conv.group_out > 1 else target.lanes
        self.block_runs = _block_runs(conv, self.whole)
        count = sum(n for *_, n in self.block_runs)
        self.units = runs(conv.y.height, min(rows, conv.y.height))
        self.columns = split(conv.y.width, columns)
        self.tile_rows, self.banded = self.units[0][1], banded
        self.rows = 1 if banded else self.tile_rows
        self.per_unit = 1 if banded else min(count, max(1, ceil_div(_ITEMS, pieces(self.units))))
        self.items = conv.y.height if banded else pieces(self.units) * self.per_unit
        self.terms = conv.kernel_size[0] * conv.kernel_size[1] * conv.group_in
        self.packed = count * (self.terms + 1) * target.lanes
        self.tile = f"{self.tile_rows}x{self.columns[0][1]}"
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
        lanes, picks = self.target.lanes, self.block_runs[0][0].picks
        used = [len({o // lanes for o in row}) for row in picks]
        if self.template == "depthwise":
            return 1, 0, 1
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
            part = item % self.per_unit
            choose(code, item // self.per_unit, self.units, lambda y, run, p=part: writer.rows(y, run[1], p))
        return [code]

    def _pack(self, parameters: Parameters) -> np.ndarray:
        conv, lanes = self.conv, self.target.lanes
        weight = parameters["weight"].reshape(conv.y.channels, conv.group_in, -1).transpose(2, 1, 0)
        rows = weight.reshape(self.terms, conv.y.channels)
        bias = parameters["bias"] if conv.epilogue.bias else np.zeros(conv.y.channels, np.float32)
        table = np.concatenate([bias[None], rows])
        width = self.whole * conv.group_out
        blocks = [table[:, start : start + width] for start in range(0, conv.y.channels, width)]
        padded = [np.pad(block, ((0, 0), (0, lanes - block.shape[1]))) for block in blocks]
        return np.ascontiguousarray(padded, np.float32).ravel()


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
                column = i * width + first_column
                first = 0
                for block, start, number in kernel.block_runs:
                    low, high = _share(code, first, number, part, kernel)
                    for b in code.each(low, high):
                        self._tile(block, (b - first) if first else b, start, b, (y, rows), (column, width))
                    first += number

    def _tile(
        self,
        block: _Block,
        index: Operand,
        start: tuple[int, int],
        number: Operand,
        rows: tuple[Operand, int],
        columns: tuple[Operand, int],
    ) -> None:
        code, conv, kernel = self.code, self.conv, self.kernel
        (y, height), (x, width) = rows, columns
        inputs = start[0] + index * (kernel.whole * conv.group_in) if conv.order is None else start[0]
        outputs = index * (kernel.whole * conv.group_out) + start[1]
        weights = self.weights + number * ((kernel.terms + 1) * code.lanes)
        corner = -conv.padding[0] * conv.x.row_pitch - conv.padding[1] * conv.x.pixel_pitch
        at = self.x + y * (conv.stride[0] * conv.x.row_pitch)
        at = at + x * (conv.stride[1] * conv.x.pixel_pitch) + corner + inputs
        self.width = width
        sums = self._sums(block, at, weights, height, width)
        for (dy, dx), total in sums.items():
            self.finish.store([total], Pixel(y, x, dy, dx), outputs, [block.outputs])

    def _sums(
        self, block: _Block, at: Value, weights: Value, height: int, width: int
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
        self, block: _Block, at: Value, weights: Value, uses: list[tuple[int, int]], sums: list[Value]
    ) -> list[Value]:
        """Write what one row of inputs adds: to output rows `oy` by tap rows `ky`, the pairs of `uses`."""
        code, conv = self.code, self.conv
        (_, kw), stride, dilation = conv.kernel_size, conv.stride[1], conv.dilation[1]
        sums, width = list(sums), self.width
        for j in range(conv.group_in):
            taps = {
                (ky, kx): code.load(weights + ((ky * kw + kx) * conv.group_in + j) * code.lanes)
                for _, ky in uses
                for kx in range(kw)
            }
            for ix in sorted({ox * stride + kx * dilation for ox in range(width) for kx in range(kw)}):
                v = gather(code, at + ix * conv.x.pixel_pitch, block.picks[j], block.limit)
                for kx in range(kw):
                    ox, rest = divmod(ix - kx * dilation, stride)
                    if rest or not 0 <= ox < width:
                        continue
                    for oy, ky in uses:
                        sums[oy * width + ox] = code.fma(v, taps[ky, kx], sums[oy * width + ox])
        return sums


def _is_tap(distance: int, dilation: int, taps: int) -> bool:
    return distance % dilation == 0 and 0 <= distance // dilation < taps


def _share(code: Code, first: int, number: int, part: Operand, kernel: Lanes) -> tuple[Operand, Operand]:
    """Return the blocks of a run, numbered from `first`, that belong to `part` of a row's blocks."""
    if kernel.per_unit == 1:
        return first, first + number
    count = sum(n for *_, n in kernel.block_runs)
    part = code.value(part, "i64")
    low, high = part * count // kernel.per_unit, (part + 1) * count // kernel.per_unit
    return code.larger(low, first), code.smaller(high, first + number)


def _block_runs(conv: Conv, whole: int) -> list[tuple[_Block, tuple[int, int], int]]:
    """Return runs of equal blocks: the block, the first input and output channel, how many.

    `whole` groups fit a vector. With an order, each block is a run of its own.
    """
    full, rest = divmod(conv.groups, whole)
    found = []
    if conv.order is None:
        if full:
            found.append((_block(conv, 0, whole), (0, 0), full))
        if rest:
            start = full * whole
            found.append((_block(conv, start, rest), (start * conv.group_in, start * conv.group_out), 1))
        return found
    for start in range(0, conv.groups, whole):
        block = _block(conv, start, min(whole, conv.groups - start))
        found.append((block, (0, start * conv.group_out), 1))
    return found


def _block(conv: Conv, first: int, count: int) -> _Block:
    """Return the block of `count` groups from group `first` on."""
    order = conv.order or range(conv.in_channels)
    base = first * conv.group_in if conv.order is None else 0
    limit = count * conv.group_in if conv.order is None else conv.x.channels
    picks = tuple(
        tuple(
            order[g * conv.group_in + j] - base
            for g in range(first, first + count)
            for _ in range(conv.group_out)
        )
        for j in range(conv.group_in)
    )
    return _Block(count * conv.group_out, limit, picks)


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
    blocks = 1 if conv.order is None else ceil_div(conv.groups, max(1, target.lanes // conv.group_out))
    row = blocks * conv.group_in * conv.kernel_size[1]
    shapes = [(rows, columns) for rows, columns in shapes if row * rows * columns <= _LONGEST]
    return [Lanes(conv, target, rows, columns, banded) for rows, columns in shapes]
