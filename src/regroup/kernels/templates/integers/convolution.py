"""Convolutions of integers: a register tile of pixels times vectors of outputs, exact sums block by block.

Weights lie packed to their bits. A work item is a block of output channels for some rows; the first one in a
call unpacks the block's weights to bytes in private memory, and the others find them there.

Where a number is too large for a byte, or not finite, a block's step is NaN, and so is every result that it
goes into: those tiles are done again by the definition, with the numbers as they were given.
"""

from __future__ import annotations

import numpy as np

from regroup.kernels.language.code import Code
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import IntegerConv
from regroup.kernels.problems.blocks import words
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div, pieces
from regroup.kernels.templates.integers.code import Writer
from regroup.kernels.templates.integers.cut import Cut
from regroup.kernels.templates.integers.packing import BATCH, pack
from regroup.kernels.templates.integers.sums import Way, fits, ways


class IntegerSums(Kernel):
    """Convolutions of integers of a few bits.

    Args:
        problem: the convolution.
        target: the CPU.
        way: how products are summed.
        pixels: pixels of a register tile.
        vectors: vectors of output channels of a register tile.
    """

    by_weights = True

    def __init__(self, problem: IntegerConv, target: Target, way: Way, pixels: int, vectors: int) -> None:
        super().__init__(problem, target)
        self.conv, self.cut = problem, Cut(problem, target.lanes, way, pixels, vectors)
        cut, groups = self.cut, problem.form.blocks.groups
        self.template = f"integers, {way.name}"
        self.scratch = cut.definition + target.lanes
        self.per_unit = groups * pieces(cut.blocks)
        self.items = pieces(cut.units) * self.per_unit
        self.packed = groups * cut.group_floats
        self.tile = f"{cut.rows * cut.columns[0][1]}x{vectors}"
        self.cycles = self._estimate() * groups

    @property
    def key(self) -> str:
        """All that the generated code depends on."""
        return f"{super().key} {self.cut.way.name}"

    def _estimate(self) -> float:
        cut, way, total = self.cut, self.cut.way, 0.0
        for _, nv, count in cut.blocks:
            for _, width, tiles in cut.columns:
                pixels = cut.rows * width
                sums, loads = pixels * nv, pixels + nv
                word = max(sums * way.word_cycles, loads / 2, 5.0 if sums < 10 else 0.0) + 0.04 * loads
                scaled = sums * (2.0 + way.rest_cycles) + pixels
                each = cut.words * word + cut.shifts * scaled + 20 + 2 * sums
                total += count * tiles * pieces(cut.units) * each
            total += count * cut.words * nv * 4.0  # unpacked once for each thread
        return total

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        writer = Writer(self.cut, code, views)
        _, low, high, _ = code.arguments
        for item in code.each(low, high, name="item"):
            writer.item(item, low)
        return [code]

    def _pack(self, parameters: Parameters) -> np.ndarray:
        """Return for each block of output channels its bias, its shifts and its weights as packed bytes."""
        conv, lanes, groups = self.conv, self.target.lanes, self.conv.form.blocks.groups
        taps, wide = conv.taps, [(0, 0), (0, 0), (0, -self.cut.group_out % lanes)]
        shifts = parameters["shifts"].reshape(groups, self.cut.group_out, -1, taps)
        head = np.zeros((groups, 1, self.cut.group_out), np.float32)
        if conv.epilogue.bias:
            head[:, 0] = parameters["bias"].reshape(groups, -1)
        head = np.concatenate([head, shifts.transpose(0, 3, 2, 1).reshape(groups, -1, self.cut.group_out)], 1)
        head = np.pad(head, wide)
        bytes_ = np.pad(self._bytes(parameters["weight"]), [*wide, (0, 0)])
        found = []
        for group in range(groups):
            for first, size, count in self.cut.blocks:
                for i in range(count):
                    own = slice((first + i * size) * lanes, (first + (i + 1) * size) * lanes)
                    vectors = bytes_[group, :, own].reshape(-1, 4 * lanes)
                    vectors = np.pad(vectors, [(0, -len(vectors) % BATCH), (0, 0)])
                    found += [head[group, :, own].ravel(), pack(vectors, conv.bits).view(np.float32).ravel()]
        return np.concatenate(found)

    def _bytes(self, weight: np.ndarray) -> np.ndarray:
        """Return weights without a sign, by group, word, output channel and byte."""
        conv, blocks = self.conv, self.conv.form.blocks
        weight = weight.reshape(blocks.groups, self.cut.group_out, blocks.depth, conv.taps)
        weight = (weight + conv.form.offset).astype(np.int64)
        assert weight.min(initial=0) >= 0 and weight.max(initial=0) < 2**conv.bits, "weights of more bits"
        parts = []
        for first, width, count in blocks.of_group:
            part = weight[:, :, first : first + width * count].reshape(*weight.shape[:2], count, width, -1)
            part = np.pad(part, [(0, 0)] * 3 + [(0, -width % 4), (0, 0)])  # times bytes that are 0
            parts.append(part.reshape(*weight.shape[:2], count * words(width), 4, conv.taps))
        table = np.concatenate(parts, 2).transpose(0, 4, 2, 1, 3)
        return table.reshape(blocks.groups, self.cut.words, self.cut.group_out, 4).astype(np.uint8)


def candidates(problem: IntegerConv, target: Target) -> list[IntegerSums]:
    """Return register tiles that fit the target's registers, for each way to sum."""
    blocks = problem.form.blocks
    views = (problem.x, problem.given, problem.y)
    if any(view.channel_pitch != 1 for view in views) or not fits(
        problem.bits, blocks.mantissa, blocks.block
    ):
        return []
    tiles = {1: 14, 2: 7, 3: 4, 4: 3} if target.registers == 32 else {1: 6, 2: 3, 3: 2}
    most = ceil_div(problem.y.channels // blocks.groups, target.lanes)
    shapes = [(pixels, vectors) for vectors, pixels in tiles.items() if vectors <= most]
    return [
        IntegerSums(problem, target, way, *shape) for way in ways(problem, target)[:1] for shape in shapes
    ]
