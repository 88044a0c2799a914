"""3x3 convolutions by Winograd's F(2x2, 3x3): 16 products where the definition takes 36.

The output is cut into tiles of 2x2. Each reads 4x4 inputs d; with its kernel g, it is
`A' [(G g G') * (B' d B)] A`, summed over input channels inside the brackets (Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks", 2016, eq. 8): for each of the 16 positions a matrix product of tiles,
input channels and output channels, done as in `dense.py`.
"""

from __future__ import annotations

from math import prod

import numpy as np

from regroup.kernels.language.code import Code
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv, Prologue
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div, pieces, split
from regroup.kernels.templates.parts.tiles import by_block, register_tiles, term_cycles
from regroup.kernels.templates.winograd.code import Writer
from regroup.kernels.templates.winograd.cut import POSITIONS, Cut, grid, tile_pitch

_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])

_FEWEST = 12
"""Channels: with fewer, the transforms take what they save."""

_FLOATS_A_CYCLE = 1.4
"""How quickly weights come from memory."""

_SHARE = 5 / 8
"""Share of the second-level cache that a strip's transformed inputs and sums may take."""

_MOST = 56
"""Tiles of a strip: with more, weights would be read hardly less often."""

_FEW = 20
"""Tiles: threads share the channels of so few, rather than the tiles."""


class Winograd(Kernel):
    """Dense and wide-grouped 3x3 convolutions of stride 1.

    A work item is a block of output channels of a strip of tiles. The first item of a strip in a call
    transforms the strip's inputs into private memory; the others find them there.

    NaN and infinity would spread over a tile, and differences of infinities be NaN: a tile with a result that
    is not finite is done again by the definition, with the weights as they were given.

    Args:
        problem: the convolution.
        target: the CPU.
        tiles: tiles of a strip, at most.
        pixels: tiles of a register tile.
        vectors: vectors of output channels of a register tile.
    """

    template = "winograd"

    def __init__(self, problem: Conv, target: Target, tiles: int, pixels: int, vectors: int) -> None:
        super().__init__(problem, target)
        self.conv, self.cut = problem, Cut(problem, target.lanes, tiles, pixels, vectors)
        cut = self.cut
        self.scratch = cut.input_floats + cut.sum_floats
        self.rare = problem.groups * cut.given_floats
        self.packed = problem.groups * cut.group_floats + self.rare
        self.per_unit = cut.per_strip
        self.items = pieces(cut.strips) * cut.per_strip
        self.by_weights = pieces(cut.strips) == 1
        self.tile = f"{cut.widest}/{pixels}x{vectors}"
        self.cycles = self._estimate()

    def _estimate(self) -> float:
        """Return what two threads take together: they share the items unevenly, and wait for the weights."""
        conv, lanes = self.conv, self.target.lanes
        strips = [strip for _, strip, count in self.cut.strips for _ in range(count)]
        blocks = [nv for _, nv, count in self.cut.blocks for _ in range(count)] * conv.groups
        items = [self._item_cycles(strip, nv) for strip in strips for nv in blocks]
        half = len(items) // 2
        shared = 2 * max(sum(items[:half]), sum(items[half:]))
        computed = shared + 28 * sum(strips) * ceil_div(conv.x.channels, lanes)
        read = (self.packed - self.rare) * min(len(strips), 2) / _FLOATS_A_CYCLE
        return max(computed, read) + min(computed, read) / 8

    def _item_cycles(self, tiles: int, nv: int) -> float:
        products = sum(
            count * (self.cut.stored * term_cycles(width, nv, self.cut.pitch, None) + 20 + 1.5 * width * nv)
            for _, width, count in split(tiles, self.cut.pixels)
        )
        return POSITIONS * products + 28 * tiles * nv

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        writer = Writer(self.conv, self.cut, code, views)
        _, low, high, _ = code.arguments
        for item in code.each(low, high, name="item"):
            writer.item(item, low)
        return [*writer.definitions, code]

    def _pack(self, parameters: Parameters) -> np.ndarray:
        """Return bias and transformed weights by block of output channels, then the weights as given."""
        conv, lanes = self.conv, self.target.lanes
        weight = parameters["weight"].reshape(conv.groups, conv.group_out, conv.group_in, 9)
        bias = np.zeros((conv.groups, 1, conv.group_out), np.float32)
        if conv.epilogue.bias:
            bias[:] = parameters["bias"].reshape(bias.shape)
        stored = _terms(_by_stored(conv, weight)).reshape(conv.groups, 9, -1)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is done by the definition
            transformed = (np.kron(_G, _G) @ stored.astype(np.float64)).astype(np.float32)
        quick = np.hstack([bias, transformed.reshape(conv.groups, -1, conv.group_out)])
        wide = [(0, 0), (0, 0), (0, -conv.group_out % lanes)]
        tables = [by_block(np.pad(t, wide), self.cut.blocks, lanes).ravel() for t in (quick, _terms(weight))]
        return np.concatenate(tables)


def _by_stored(conv: Conv, weight: np.ndarray) -> np.ndarray:
    """Return weights (group, out, in, tap) by the channels of `x`: a channel read twice has their sum."""
    if conv.order is None:
        return weight
    stored = np.zeros((1, conv.y.channels, conv.x.channels, 9))
    for i, c in enumerate(conv.order):
        stored[:, :, c] += weight[:, :, i]
    return stored


def _terms(weight: np.ndarray) -> np.ndarray:
    """Return weights (group, out, in, tap) as (group, (tap, in), out)."""
    return weight.transpose(0, 3, 2, 1).reshape(weight.shape[0], -1, weight.shape[1])


def candidates(conv: Conv, target: Target) -> list[Winograd]:
    """Return strips and register tiles that fit the target's cache and registers."""
    if not (target.winograd and _suits(conv)):
        return []
    room = int(target.l2 / 4 * _SHARE) // POSITIONS
    tiles, found = prod(grid(conv)), []
    for pixels, vectors in register_tiles(target, ceil_div(conv.group_out, target.lanes)):
        most = max(1, min(_MOST, room // (tile_pitch(conv.x.channels) + vectors * target.lanes)))
        strips = [most, ceil_div(tiles, 2)] if _FEW < tiles <= most else [most]
        found += [Winograd(conv, target, strip, pixels, vectors) for strip in strips]
    return found


def _suits(conv: Conv) -> bool:
    """Tell whether this is what the template does, and may do well."""
    shape = (conv.kernel_size, conv.stride, conv.dilation, conv.x.channel_pitch, conv.y.channel_pitch)
    if shape != ((3, 3), (1, 1), (1, 1), 1, 1) or conv.prologue != Prologue():
        return False
    # all channels of `x` are transformed, read or not
    if conv.order is not None and (conv.groups > 1 or conv.x.channels > conv.in_channels * 5 // 4):
        return False
    return min(conv.group_in, conv.group_out) >= _FEWEST
