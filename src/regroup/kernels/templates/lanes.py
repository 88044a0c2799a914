"""Depthwise and narrow-grouped convolution: a vector of output channels spans whole groups.

A lane holds one output channel of a block; its group's j-th input channel is brought to it by a constant
permutation of the block's input vectors, and every permuted copy feeds all taps and pixels that need it.
Depthwise is the case of one channel a group and no permutation.

Where the j-th inputs of a block's groups lie side by side (`engine/placing/layout.py` sees to it where it
can), they are loaded and repeated in one instruction: then neighbouring lanes belong to neighbouring groups,
and only the sums are permuted, once. A block that fills half a vector or less then takes two pixels at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv, Prologue
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div, pieces, runs, split
from regroup.kernels.templates.parts.blocks import Block, BlockRun, block_runs
from regroup.kernels.templates.parts.finish import Finish, Pixel
from regroup.kernels.templates.parts.taps import TapSums

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
        self.strips = _by_strips(conv, banded)
        self.rest = min(1, self.tile_rows - 1) if banded else conv.y.height % self.tile_rows
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
            writer.rows(low, high, 0)
            return [code]
        for part, first, last in self._ranges(code, low, high):
            stop = code.smaller(last * self.tile_rows, self.conv.y.height)
            writer.rows(first * self.tile_rows, stop, part)
        return [code]

    def _ranges(self, code: Code, low: Value, high: Value) -> Iterator[tuple[Operand, Operand, Operand]]:
        """Write a loop over the parts of the channels: (part, first unit, last) of a range of items."""
        units, parts = pieces(self.units), self.per_unit
        if self.by_weights:
            for part in code.each(low // units, (high + (units - 1)) // units):
                done = part * units
                yield part, code.larger(low - done, 0), code.smaller(high - done, units)
        else:
            for part in code.each(0, parts):
                skipped = parts - 1 - part
                yield part, (low + skipped) // parts, (high + skipped) // parts

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

    def rows(self, first: Operand, last: Operand, part: Operand) -> None:
        """Write a range of rows: all channel blocks, or one part of them."""
        if self.kernel.strips:
            for columns in self._columns():
                for channels in self._channels(part):
                    for rows in self._heights(first, last):
                        self._tile(channels, rows, columns)
        else:
            for rows in self._heights(first, last):
                for columns in self._columns():
                    for channels in self._channels(part):
                        self._tile(channels, rows, columns)

    def _heights(self, first: Operand, last: Operand) -> Iterator[tuple[Operand, int]]:
        """Write loops over tiles of rows: (first row, rows)."""
        code, kernel = self.code, self.kernel
        whole = last - (last - first) % kernel.tile_rows
        for y in code.each(first, whole, kernel.tile_rows, name="row"):
            yield y, kernel.tile_rows
        for y in code.each(whole, last, kernel.rest, name="row") if kernel.rest else ():
            yield y, kernel.rest

    def _columns(self) -> Iterator[tuple[Operand, int]]:
        """Write loops over tiles of columns: (first column, columns of each pixel of a vector)."""
        for first, width, count in self.kernel.columns:
            for i in self.code.each(0, count):
                yield i * (width * self.kernel.pixels) + first, width

    def _channels(self, part: Operand) -> Iterator[tuple[BlockRun, Operand, Operand]]:
        """Write loops over blocks of channels: (run, number in the run, number in all)."""
        before = 0
        for run in self.kernel.block_runs:
            low, high = _share(self.code, before, run.count, part, self.kernel)
            for b in self.code.each(low, high):
                yield run, (b - before) if before else b, b
            before += run.count

    def _tile(
        self,
        channels: tuple[BlockRun, Operand, Operand],
        rows: tuple[Operand, int],
        columns: tuple[Operand, int],
    ) -> None:
        code, conv, kernel = self.code, self.conv, self.kernel
        (run, index, number), (y, height), (x, width) = channels, rows, columns
        block = run.block
        inputs = index * run.stride + run.input
        outputs = index * block.outputs + run.output
        weights = self.weights + number * ((kernel.terms + 1) * code.lanes)
        corner = -conv.padding[0] * conv.x.row_pitch - conv.padding[1] * conv.x.pixel_pitch
        at = self.x + y * (conv.stride[0] * conv.x.row_pitch)
        at = at + x * (conv.stride[1] * conv.x.pixel_pitch) + corner + inputs
        sums = TapSums(code, conv, block, kernel.pixels, width).write(at, weights, height)
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


def _by_strips(conv: Conv, banded: bool) -> bool:
    """Tell whether tiles had better follow one another down the image.

    They do where more than two rows of outputs read a row of inputs, which then comes to the first-level
    cache once, and stays there unless its pixels lie a multiple of 512 bytes apart: those share an eighth of
    the cache. A band of a chain is there already.
    """
    stays = conv.x.pixel_pitch % 128 != 0
    return stays and not banded and conv.kernel_size[0] > 2 * conv.stride[0]


def _share(code: Code, first: int, number: int, part: Operand, kernel: Lanes) -> tuple[Operand, Operand]:
    """Return the blocks of a run, numbered from `first`, that belong to `part` of a row's blocks."""
    if kernel.per_unit == 1:
        return first, first + number
    part, count = code.integer(part), kernel.blocks
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
    if _by_strips(conv, banded):
        shapes += [(2, 7)] if registers32 and conv.group_in == 1 and conv.y.width < 14 else []
    elif conv.group_in == 1 and conv.kernel_size[0] <= 3:  # short enough to write several rows out
        shapes += [(2, 7), (3, 5), (4, 4)] if registers32 else [(2, 3)]
    whole = max(1, target.lanes // conv.group_out)
    blocks = block_runs(conv, whole)
    inputs = sum(4 if run.block.looped else conv.group_in for run in blocks)
    halves = 2 * conv.groups * conv.group_out <= target.lanes and blocks[0].block.repeats
    pairs = halves and conv.y.width % 2 == 0
    if pairs:
        shapes += [(2, 7), (2, 4)]
    kh, kw = conv.kernel_size

    def length(rows: int, columns: int) -> int:
        return inputs * kw * columns * (rows * kh if rows > 1 else 1)

    fitting = [shape for shape in shapes if length(*shape) <= _LONGEST]
    return [Lanes(conv, target, rows, columns, banded, pairs) for rows, columns in fitting]
