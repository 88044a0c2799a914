"""Convolution of inputs that are chosen at run time, by scalar broadcast.

Inputs are read one by one anyway, so chosen ones cost one load of an offset more. Their weights, times the
saliencies, are gathered for a block of outputs at a time, into the thread's own cache; meanwhile those of the
next block are fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.dynamic import DynamicConv
from regroup.kernels.templates.base import (
    LINE,
    Kernel,
    Parameters,
    Run,
    ceil_div,
    choose,
    pieces,
    runs,
    split,
    whole_lines,
)
from regroup.kernels.templates.parts.finish import Finish, Pixel
from regroup.kernels.templates.parts.reduce import SHORT_STRETCH, Reduction
from regroup.kernels.templates.parts.stage import Direct, Source, Unit
from regroup.kernels.templates.parts.tiles import (
    by_block,
    channel_blocks,
    register_tiles,
    term_cycles,
    valid_lanes,
)

_ITEMS = 16
"""Enough work items to share evenly among threads: each block's pixels are cut into slices to reach it."""

_PIXELS = 40
"""Least pixels of a slice: each slice gathers its weights anew."""


class Dynamic(Kernel):
    """A work item is a slice of the pixels of a block of a head's outputs.

    Scratch memory: how many inputs' weights of the next item have been fetched; the offsets of the inputs
    that the head keeps; the block's weights of these.

    Args:
        problem: the convolution.
        target: the CPU.
        pixels: pixels of a register tile.
        vectors: vectors of output channels of a register tile.
    """

    template = "dynamic"

    def __init__(self, problem: DynamicConv, target: Target, pixels: int, vectors: int) -> None:
        super().__init__(problem, target)
        self.conv, lanes, width = problem, target.lanes, problem.y.width
        rows = max(1, min(pixels // width, problem.y.height))
        self.columns, self.units = split(width, pixels), runs(problem.y.height, rows)
        self.blocks = channel_blocks(problem.head_out, lanes, vectors)
        self.taps = problem.kernel_size[0] * problem.kernel_size[1]
        self.per_slice = problem.heads * pieces(self.blocks)
        most = max(1, min(pieces(self.units), problem.y.height * width // _PIXELS))
        self.slices = min(ceil_div(_ITEMS, self.per_slice), most)
        self.items = self.slices * self.per_slice
        self.padded = ceil_div(problem.head_out, lanes) * lanes
        self.head_floats = self.padded * self.taps * problem.in_channels
        self.packed = problem.heads * (self.padded + self.head_floats)
        widest = max(size for _, size, _ in self.blocks)
        self.scratch = LINE + whole_lines(problem.kept) + self.taps * problem.kept * widest * lanes
        self.tile = f"{rows * self.columns[0][1]}x{vectors}"
        self.cycles = self._estimate(rows)

    def _estimate(self, rows: int) -> float:
        terms, pitch = self.taps * self.conv.kept, self.conv.x.pixel_pitch * self.conv.stride[1]
        return self.conv.heads * sum(
            count * terms * (2 * self.slices * nv + tiles * pieces(self.units) * (term + 0.5))
            for _, nv, count in self.blocks
            for _, width, tiles in self.columns
            for term in [term_cycles(rows * width, nv, pitch, None)]
        )

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        writer, blocks = _Writer(self, code, views), pieces(self.blocks)
        for item in code.each(low, high, name="item"):
            part, rest = item // self.per_slice, item % self.per_slice
            write = partial(writer.slice, part, rest // blocks)
            following = code.smaller(item + 1, high - 1) % self.per_slice
            writer.begin(following // blocks, following % blocks)
            choose(code, rest % blocks, self.blocks, write)
        return [code]

    def _pack(self, parameters: Parameters) -> np.ndarray:
        """Return all biases, then for each block of a head its weights: input, tap, output."""
        heads, head_out, inputs = self.conv.heads, self.conv.head_out, self.conv.in_channels
        bias = np.zeros((heads, self.padded), np.float32)
        if self.conv.epilogue.bias:
            bias[:, :head_out] = parameters["bias"].reshape(heads, head_out)
        table = np.zeros((heads, inputs * self.taps, self.padded), np.float32)
        weight = parameters["weight"].reshape(heads, head_out, inputs * self.taps)
        table[:, :, :head_out] = weight.transpose(0, 2, 1)
        return np.concatenate([bias.ravel(), by_block(table, self.blocks, self.target.lanes).ravel()])


class _Writer:
    """Writes one function."""

    def __init__(self, kernel: Dynamic, code: Code, views: list[Value]) -> None:
        self.kernel, self.conv, self.code = kernel, kernel.conv, code
        self.x, self.choice, *others, self.packed = views
        self.plain = kernel.conv.of_kept
        self.finish = Finish(code, self.conv.epilogue, self.conv.y, others)
        self.fetched, self.offsets = code.arguments[3], code.arguments[3] + LINE
        self.weights = self.offsets + whole_lines(self.conv.kept)

    def begin(self, head: Operand, block: Operand) -> None:
        """Begin an item; the next one is of this head and block."""
        code, kernel = self.code, self.kernel
        sizes = [(start + i * size, size) for start, size, count in kernel.blocks for i in range(count)]
        vector, self._next_size = (
            code.load_int(code.table(list(n)), block) for n in zip(*sizes, strict=True)
        )
        self._next_numbers = self.choice + head * self.conv.kept
        self._next_weights = self._weights_of(head, vector)
        code.store_int(code.integer(0), self.fetched, 0)

    def fetch_next(self) -> None:
        """Fetch the weights of one more of the inputs that the next item needs."""
        code, lanes = self.code, self.code.lanes
        i = code.load_int(self.fetched, 0)
        for _ in code.when(code.compare("slt", i, self.conv.kept)):
            floats = self._next_size * (self.kernel.taps * lanes)
            row = self._next_weights + self._input(self._next_numbers + i) * floats
            for at in code.each(0, floats, LINE):
                code.prefetch(row, at)
            code.store_int(i + 1, self.fetched, 0)

    def _weights_of(self, head: Operand, vector: Operand) -> Value:
        """Return where the weights of the block that begins with `vector` begin."""
        start = self.packed + self.conv.heads * self.kernel.padded + head * self.kernel.head_floats
        return start + vector * (self.code.lanes * self.kernel.taps * self.conv.in_channels)

    def _input(self, number: Value) -> Value:
        """Return a chosen input; a number outside of them would be taken as the nearest."""
        code = self.code
        there = code.emit(code.index, f"fptosi float {code.load_scalar(number)} to {code.index}")
        return code.smaller(code.larger(there, 0), self.conv.in_channels - 1)

    def slice(self, part: Operand, head: Operand, vector: Operand, run: Run) -> None:
        """Write one slice of the pixels for the block that begins with `vector` of a head."""
        kernel, code, lanes = self.kernel, self.code, self.code.lanes
        self._gather(head, vector, run[1])
        counts = valid_lanes(self.conv.head_out, run, lanes)
        biases = self.packed + head * kernel.padded + vector * lanes
        channel = head * self.conv.head_out + vector * lanes
        part, units = code.integer(part), pieces(kernel.units)
        low, high = part * units // kernel.slices, (part + 1) * units // kernel.slices
        for number in code.each(low, high):
            write = partial(self._unit, counts=counts, biases=biases, channel=channel)
            choose(code, number, kernel.units, write)

    def _gather(self, head: Operand, vector: Operand, size: int) -> None:
        """Fill the scratch memory with the offsets of a head's inputs and a block's weights of these."""
        code, conv, kernel, lanes = self.code, self.conv, self.kernel, self.code.lanes
        floats = size * lanes
        start = self._weights_of(head, vector)
        numbers = self.choice + head * conv.kept
        order = None if conv.order is None else code.table(conv.order)
        for i in code.each(0, conv.kept):
            inside = self._input(numbers + i)
            offset = inside if order is None else code.load_int(order, inside)
            code.store_int(offset, self.offsets, i)
            saliency = code.broadcast(numbers + conv.heads * conv.kept + i)
            for tap in range(kernel.taps):
                source = start + inside * (kernel.taps * floats) + tap * floats
                target = self.weights + i * floats + tap * conv.kept * floats
                for v in range(0, floats, lanes):
                    code.store(code.load(source + v) * saliency, target + v)

    def _unit(self, row: Operand, run: Run, counts: list[int], biases: Value, channel: Operand) -> None:
        pointers = {"x": self.x}
        for start, width, count in self.kernel.columns:
            for i in self.code.each(0, count):
                unit = Unit(row, i * width + start, run[1], width)
                source = Direct(self.plain).emit(self.code, pointers, unit)
                self._tile(unit, source, counts, biases, channel)

    def _tile(self, unit: Unit, source: Source, counts: list[int], biases: Value, channel: Operand) -> None:
        code, nv = self.code, len(counts)
        pixels = [(dy, dx) for dy in range(unit.rows) for dx in range(unit.width)]
        places = [source.pixel(dy, dx) for dy, dx in pixels]
        reduction = _ChosenInputs(code, self.plain, source, places, nv)
        reduction.use(self.offsets, self.fetch_next)
        sums = reduction.write(source.pointer, 0, self.weights)
        bias = [code.load(biases + v * code.lanes) for v in range(nv)]
        for (dy, dx), mine in zip(pixels, sums, strict=True):
            total = [s + b for s, b in zip(mine, bias, strict=True)]
            self.finish.store(total, Pixel(unit.y, unit.x, dy, dx), channel, counts)


class _ChosenInputs(Reduction):
    """A sum over inputs whose offsets are known at run time only: a table in memory."""

    def use(self, offsets: Value, fetch: Callable[[], None]) -> None:
        """Set where the offsets stand, and what fetches a part of the next item's weights."""
        self.same, self._offsets, self._fetch = False, offsets, fetch
        self._stretches = SHORT_STRETCH  # fetch often, a little at a time

    def _table(self) -> Value:
        return self._offsets

    def _fetch_next(self) -> None:
        super()._fetch_next()
        self._fetch()


def candidates(problem: DynamicConv, target: Target) -> list[Dynamic]:
    """Return the register tiles that fit the target's registers."""
    if problem.x.channel_pitch != 1 or problem.y.channel_pitch != 1:
        return []
    most = ceil_div(problem.head_out, target.lanes)
    return [Dynamic(problem, target, pixels, nv) for pixels, nv in register_tiles(target, most)]
