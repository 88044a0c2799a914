"""1x1 convolutions of narrow groups over few channels: a pixel's channels stay in registers.

They are loaded and changed by the prologue once; each group's inputs are then brought to its lanes by
constant permutations, whatever the channel order.
"""

from __future__ import annotations

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div, pieces, split
from regroup.kernels.templates.parts.blocks import Block, block_runs
from regroup.kernels.templates.parts.finish import Finish, Pixel
from regroup.kernels.templates.parts.stage import Direct, Unit, pack_prologue, prepared
from regroup.kernels.templates.parts.walk import pick

_MOST = 4
"""Vectors of a pixel's channels; with more, the sums would have no room in the registers."""


class Resident(Kernel):
    """Narrow-grouped 1x1 convolutions over few channels.

    Args:
        problem: the convolution.
        target: the CPU.
        pixels: pixels of a tile.
    """

    template = "in registers"

    def __init__(self, problem: Conv, target: Target, pixels: int) -> None:
        super().__init__(problem, target)
        self.conv = conv = problem
        found = block_runs(conv, max(1, target.lanes // conv.group_out))
        self.blocks = [
            (run.block, run.input + i * run.stride, run.output + i * run.block.outputs)
            for run in found
            for i in range(run.count)
        ]
        self.columns = split(conv.y.width, pixels)
        self.items, self.rows = conv.y.height, 1
        self.head = len(pack_prologue(conv, target.lanes, {}))
        self.packed = self.head + len(self.blocks) * (conv.group_in + 1) * target.lanes
        self.tile = f"1x{self.columns[0][1]}"
        self.sources = ceil_div(conv.x.channels, target.lanes)
        product = 0.55 if target.masks else 2.0  # without AVX-512 a permutation of two vectors takes several
        each = 3 * self.sources + len(self.blocks) * (product * conv.group_in + 0.5)
        self.cycles = conv.y.height * (conv.y.width * each + 10 * pieces(self.columns))

    def _pack(self, parameters: Parameters) -> np.ndarray:
        conv, lanes = self.conv, self.target.lanes
        packed = np.zeros((len(self.blocks), conv.group_in + 1, lanes), np.float32)
        weight = parameters["weight"].reshape(conv.y.channels, conv.group_in)
        for rows, (block, _, first) in zip(packed, self.blocks, strict=True):
            mine = slice(first, first + block.outputs)
            if conv.epilogue.bias:
                rows[0, : block.outputs] = parameters["bias"][mine]
            rows[1:, : block.outputs] = weight[mine].T
        return np.concatenate([pack_prologue(conv, lanes, parameters), packed.ravel()])

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        writer = _Writer(self, code, views)
        for y in code.each(low, high, name="row"):
            for first, width, count in self.columns:
                for i in code.each(0, count):
                    writer.tile(y, i * width + first, width)
        return [code]


class _Writer:
    def __init__(self, kernel: Resident, code: Code, views: list[Value]) -> None:
        self.kernel, self.conv, self.code = kernel, kernel.conv, code
        gated, half = self.conv.prologue.gate is not None, kernel.head // 2
        self.pointers = {"x": views[0], "gate": views[1], "scale": views[-1], "shift": views[-1] + half}
        self.weights = views[-1] + kernel.head
        self.finish = Finish(code, self.conv.epilogue, self.conv.y, views[1 + gated : -1])

    def tile(self, y: Operand, x: Operand, width: int) -> None:
        """Write all output channels of some pixels of a row."""
        code, conv, lanes = self.code, self.conv, self.code.lanes
        source = Direct(conv).emit(code, self.pointers, Unit(y, x, 1, width))
        pixels: list[dict[int, Value]] = [{} for _ in range(width)]
        for s in range(self.kernel.sources):
            count = min(lanes, conv.x.channels - s * lanes)
            change = prepared(code, conv.prologue, self.pointers, s * lanes, count)
            for dx, channels in enumerate(pixels):
                channels[s] = change(code.load(source.pointer + (source.pixel(0, dx) + s * lanes), count))
        for number, (block, first, output) in enumerate(self.kernel.blocks):
            code.note(f"outputs {output} to {output + block.outputs}")
            weights = self.weights + number * (conv.group_in + 1) * lanes
            sums = self._sums(block, first, weights, pixels)
            bias = code.load(weights, name="bias")
            for dx, total in enumerate(sums):
                self.finish.store([total + bias], Pixel(y, x, 0, dx), output, [block.outputs])

    def _sums(self, block: Block, first: int, weights: Value, pixels: list[dict[int, Value]]) -> list[Value]:
        code, sums = self.code, [self.code.vec(0.0)] * len(pixels)
        for j, row in enumerate(block.picks):
            weight = code.load(weights + (j + 1) * code.lanes, name="w")
            lanes = [first + channel for channel in block.spread(row)]
            lanes += [-1] * (code.lanes - len(lanes))
            inputs = [pick(code, channels, lanes) for channels in pixels]
            sums = [code.fma(v, weight, total) for v, total in zip(inputs, sums, strict=True)]
        return sums


def candidates(conv: Conv, target: Target) -> list[Resident]:
    """Return the tiles that fit the target's registers."""
    plain = (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (1, 1), (0, 0))
    dense = conv.x.channel_pitch == conv.y.channel_pitch == 1
    sources = ceil_div(conv.x.channels, target.lanes)
    if not (plain and dense) or conv.groups == 1 or conv.group_out > target.lanes or sources > _MOST:
        return []
    # half of the registers: the other half lets one pixel's loads run while another's sums do
    return [Resident(conv, target, max(1, (target.registers // 2 - 3) // (sources + 1)))]
