"""How a convolution is cut for Winograd's algorithm: strips of tiles and blocks of channels."""

from __future__ import annotations

from math import prod

from regroup.kernels.problems import Conv
from regroup.kernels.templates.base import LINE, ceil_div, pieces, split, whole_lines
from regroup.kernels.templates.parts.tiles import channel_blocks

POSITIONS = 16
"""Of a transformed 4x4 patch: row by row."""


class Cut:
    """Sizes are in floats.

    Args:
        conv: the convolution.
        lanes: of a vector.
        tiles: tiles of a strip, at most.
        pixels: tiles of a register tile.
        vectors: vectors of output channels of a register tile.

    Attributes:
        grid: rows and columns of tiles.
        strips: runs of strips of tiles.
        widest: tiles of the longest strip.
        blocks: runs of blocks of a group's output channels, in vectors.
        per_strip: work items of a strip.
        pitch: from a tile's transformed inputs to the next one's.
        input_floats: transformed inputs of a strip.
        sum_floats: sums of a strip and a block.
        stored: input channels of a group, as they lie in memory.
        vector_floats: bias and transformed weights of a vector of output channels.
        group_floats: those of a group.
        given_floats: a group's weights as they were given.
    """

    def __init__(self, conv: Conv, lanes: int, tiles: int, pixels: int, vectors: int) -> None:
        self.pixels, self.grid = pixels, grid(conv)
        self.strips = split(prod(self.grid), tiles)
        self.blocks = channel_blocks(conv.group_out, lanes, vectors)
        self.per_strip = conv.groups * pieces(self.blocks)
        self.pitch = tile_pitch(conv.x.channels)
        self.widest = self.strips[0][1]
        self.input_floats = POSITIONS * self.widest * self.pitch
        self.sum_floats = POSITIONS * self.widest * self.blocks[0][1] * lanes
        self.stored = conv.x.channels // conv.groups
        across = ceil_div(conv.group_out, lanes)
        self.vector_floats = (1 + POSITIONS * self.stored) * lanes
        self.group_floats = across * self.vector_floats
        self.given_floats = across * 9 * conv.group_in * lanes


def grid(conv: Conv) -> tuple[int, int]:
    """Return the rows and columns of tiles."""
    return ceil_div(conv.y.height, 2), ceil_div(conv.y.width, 2)


def tile_pitch(channels: int) -> int:
    """Return the floats from a tile to the next: an odd number of lines spreads tiles over cache sets."""
    return (whole_lines(channels) // LINE | 1) * LINE
