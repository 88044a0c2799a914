"""Block floating point: the channels of a pixel share an exponent, block by block (DSConv).

>>> blocks = Blocks(channels=70, block=32)
>>> blocks.of_group, blocks.number
([(0, 32, 2), (64, 6, 1)], 3)
>>> Integers(blocks, offset=4).floats  # 70 bytes, and three words for each block
27
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from regroup.kernels.problems.base import Problem, Shape
from regroup.kernels.problems.conv import Conv
from regroup.kernels.problems.fused import NO_EPILOGUE, Epilogue
from regroup.kernels.problems.view import Halo, View
from regroup.spec import Size

_NONE = View.vector(1)


@dataclass(frozen=True)
class Blocks:
    """How channels share exponents. Blocks do not cross from one group to the next.

    Attributes:
        channels: of a pixel.
        block: channels that share an exponent; the last ones of a group may be fewer.
        mantissa: bits of a number, sign and leading one included.
        exponent: bits of an exponent.
        groups: of channels.
    """

    channels: int
    block: int = 32
    mantissa: int = 6
    exponent: int = 5
    groups: int = 1

    @property
    def depth(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def of_group(self) -> list[tuple[int, int, int]]:
        """The blocks of a group: (first channel, channels, how many such follow one another)."""
        whole, rest = divmod(self.depth, self.block)
        runs = [(0, self.block, whole), (whole * self.block, rest, 1)]
        return [run for run in runs if run[1] * run[2]]

    @property
    def per_group(self) -> int:
        """Blocks of a group."""
        return sum(count for *_, count in self.of_group)

    @property
    def number(self) -> int:
        """Blocks of a pixel."""
        return self.per_group * self.groups


@dataclass(frozen=True)
class Integers:
    """A pixel as integers: its numbers divided by their block's step, a byte each, and three words a block.

    Bytes come first, those of each block filled up to whole words; then for each block `-offset` times the
    sum of its integers, its step, or NaN where its integers might not fit a byte, and its step again.

    Attributes:
        blocks: how channels share exponents.
        offset: what has been added to the weights that the integers will be multiplied by.
    """

    blocks: Blocks
    offset: int

    @property
    def group_words(self) -> int:
        """Words (floats) that the bytes of a group take."""
        return sum(words(width) * count for _, width, count in self.blocks.of_group)

    @property
    def sums(self) -> int:
        """Where the sums begin, in floats."""
        return self.group_words * self.blocks.groups

    @property
    def steps(self) -> int:
        """Where the steps begin."""
        return self.sums + self.blocks.number

    @property
    def all_steps(self) -> int:
        """Where the steps begin that are those of large numbers too."""
        return self.steps + self.blocks.number

    @property
    def floats(self) -> int:
        """Floats of a pixel."""
        return self.all_steps + self.blocks.number


def words(width: int) -> int:
    """Return how many words of 32 bits hold as many bytes."""
    return -(-width // 4)


@dataclass(frozen=True)
class BlockFloatingPoint(Problem):
    """Numbers rounded as `blocks` says. Source: `regroup.ops.shifted`."""

    blocks: Blocks = Blocks(1)


@dataclass(frozen=True)
class ToIntegers(Problem):
    """The same numbers as `Integers`: `y` is a view of `form.floats` floats a pixel."""

    form: Integers = Integers(Blocks(1), 0)


@dataclass(frozen=True)
class IntegerConv(Problem):
    """A convolution of `Integers` with weights of a few bits and a shift for each block of their depth.

    For each tap and each block of channels, in this order, the exact sum of integers times integers, times
    the block's step, is multiplied by the shift and added to the result in one rounding.

    Attributes:
        given: the numbers that `x` holds as integers, for those that do not fit.
        form: how `x` holds them.
        bits: of the weights, which are within -2^(bits-1) ... 2^(bits-1) - 1; `form.offset` is 2^(bits-1).
        kernel_size: (height, width).
        stride: (height, width).
        padding: zeros above and left.
        dilation: (height, width).
        epilogue: what happens to the sums.
    """

    given: View = _NONE
    form: Integers = Integers(Blocks(1), 0)
    bits: int = 4
    kernel_size: Size = (1, 1)
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: Size = (1, 1)
    epilogue: Epilogue = NO_EPILOGUE

    @property
    def views(self) -> tuple[View, ...]:
        """The integers, the numbers, what the epilogue reads, the output."""
        return (self.x, self.given, *self.epilogue.views, self.y)

    @property
    def view_names(self) -> tuple[str, ...]:
        """In the order of `views`."""
        return ("x", "given", *self.epilogue.view_names, "y")

    @property
    def of_numbers(self) -> Conv:
        """The convolution of the same shape on numbers."""
        return Conv(
            replace(self.x, channels=self.form.blocks.channels),
            self.y,
            epilogue=self.epilogue,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.form.blocks.groups,
        )

    @property
    def taps(self) -> int:
        """Of the kernel."""
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def constants(self) -> tuple[str, ...]:
        """The slopes, if there are any."""
        return self.of_numbers.constants

    @property
    def parameters(self) -> dict[str, Shape]:
        """Integers as `weight`, a shift for each block of each tap, and what is fused."""
        found = self.of_numbers.parameters
        shifts = (self.y.channels, self.form.blocks.per_group, *self.kernel_size)
        return {"weight": found.pop("weight"), "shifts": shifts} | found

    @property
    def macs(self) -> int:
        """One per weight and output pixel."""
        return self.of_numbers.macs

    @property
    def x_halo(self) -> Halo:
        """What the windows of the outermost pixels reach."""
        return self.of_numbers.x_halo
