"""How a convolution of integers is cut into tiles, and how its weights lie."""

from __future__ import annotations

from regroup.kernels.problems import IntegerConv
from regroup.kernels.templates.base import ceil_div, runs, split
from regroup.kernels.templates.integers.packing import BATCH
from regroup.kernels.templates.integers.sums import Way
from regroup.kernels.templates.parts.tiles import channel_blocks


class Cut:
    """Tiles of pixels, blocks of output channels, and the places of their weights.

    Attributes:
        conv: the convolution.
        lanes: of a vector.
        way: how products are summed.
        group_out: output channels of a group.
        rows: rows of a unit of pixels.
        columns: the tiles of a row.
        units: the units.
        blocks: a group's output channels as vectors.
        words: words of weights that an output channel reads.
        shifts: shifts of an output channel.
        definition: floats of private memory that a block's bytes take; what the definition needs comes after.
        group_floats: floats of a group's packed weights.
    """

    def __init__(self, conv: IntegerConv, lanes: int, way: Way, pixels: int, vectors: int) -> None:
        self.conv, self.lanes, self.way = conv, lanes, way
        form, y = conv.form, conv.y
        self.group_out = y.channels // form.blocks.groups
        self.rows = max(1, min(pixels // y.width, y.height))
        self.columns, self.units = split(y.width, pixels), runs(y.height, self.rows)
        self.blocks = channel_blocks(self.group_out, lanes, vectors)
        self.words = conv.taps * form.group_words
        self.shifts = conv.taps * form.blocks.per_group
        widest = max(size for _, size, _ in self.blocks)
        self.definition = ceil_div(self.words * widest, BATCH) * BATCH * lanes
        self.group_floats = sum(self.block_floats(size) * count for _, size, count in self.blocks)

    def packed_rows(self, vectors: int) -> int:
        """Return how many vectors the packed weights of a block take."""
        return ceil_div(self.words * vectors, BATCH) * self.conv.bits

    def block_floats(self, vectors: int) -> int:
        """Return the floats of a block: its bias, its shifts, its packed weights."""
        return ((1 + self.shifts) * vectors + self.packed_rows(vectors)) * self.lanes
