"""Block floating point: a pixel's channels, block by block: the largest exponent, then powers of two.

All of it is exact but the rounding that is asked for: bits are compared as integers, an exponent is a mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.functions import at_least, at_most, nearest
from regroup.kernels.language.integers import (
    bits_of,
    first_of,
    from_floats,
    ints,
    larger_ints,
    largest_lane,
    narrowed,
    splat_int,
    store_ints,
    sum_of_lanes,
)
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import BlockFloatingPoint, Blocks, Problem, ToIntegers
from regroup.kernels.problems.blocks import words
from regroup.kernels.templates.base import Kernel, ceil_div
from regroup.kernels.templates.parts.walk import vectors
from regroup.kernels.templates.rows import ByRow

_EXPONENT = 0x7F800000
"""The bits of a float's exponent."""

_SAFE = 7
"""Bits of a shared exponent at most whose powers of two, and their inverses, are normal numbers."""

_SMALLEST = 2.0**-149
"""Float above zero: all floats are multiples of it."""


class BlockFloat(ByRow):
    """Numbers rounded under an exponent that the channels of a block share."""

    template = "block floating point"

    def __init__(self, problem: BlockFloatingPoint, target: Target) -> None:
        super().__init__(problem, target)
        self.blocks = problem.blocks
        self.cycles = _cycles(problem, problem.blocks, target)

    def _pixel(self, code: Code, views: list[Value], y: Operand, x: Operand) -> None:
        blocks = self.blocks
        source, out = self._addresses(views, y, x)
        for _, start, width in each_block(code, blocks):
            step = shared_step(code, largest_magnitude(code, source + start, width), blocks)
            for c, count in vectors(code, width, start):
                code.store(rounded(code, code.load(source + c, count), step, blocks) * step, out + c, count)


class ToBytes(ByRow):
    """Numbers as `Integers`."""

    template = "to integers"

    def __init__(self, problem: ToIntegers, target: Target) -> None:
        super().__init__(problem, target)
        self.form = problem.form
        self.cycles = _cycles(problem, problem.form.blocks, target)

    def _pixel(self, code: Code, views: list[Value], y: Operand, x: Operand) -> None:
        form, blocks = self.form, self.form.blocks
        source, out = self._addresses(views, y, x)
        for number, start, width in each_block(code, blocks):
            largest = largest_magnitude(code, source + start, width)
            step = shared_step(code, largest, blocks)
            total = self._bytes(code, (source + start, step), out + self._place(number, start), width)
            total = code.binary("mul", total, -form.offset)
            code.line(f"store i32 {total}, ptr {out + form.sums + number}, align 4")
            fits = code.compare("olt", largest, 2.0 ** (2 ** (blocks.exponent - 1)))
            code.store_scalar(code.extract(step, 0), out + form.all_steps + number)
            step = code.select(fits, step, math.nan)
            code.store_scalar(code.extract(step, 0), out + form.steps + number)

    def _place(self, number: Operand, start: Operand) -> Operand:
        """Return where a block's bytes begin, in floats."""
        blocks = self.form.blocks
        if blocks.groups == 1 and blocks.block % 4 == 0:
            return start // 4
        each = words(min(blocks.block, blocks.depth))
        if blocks.per_group == 1:
            return number * each
        group, block = number // blocks.per_group, number % blocks.per_group
        return group * self.form.group_words + block * each

    def _bytes(self, code: Code, block: tuple[Value, Value], out: Value, width: int) -> Value:
        """Store a block's integers as bytes, and return their sum."""
        source, step = block
        whole = width - width % code.lanes

        def body(c: Operand, total: list[Value], count: int = 0) -> list[Value]:
            number = rounded(code, code.load(source + c, count), step, self.form.blocks)
            integers = from_floats(code, number)
            narrow = narrowed(code, integers, 8)
            if count:
                narrow = first_of(code, narrow, 4 * words(count))
            store_ints(code, narrow, out + c // 4)
            return [total[0] + integers]

        total = [code.value(0, ints(code, 32))]
        if whole:
            total = code.carry(0, whole, code.lanes, total, body, "c")
        if width > whole:
            total = body(whole, total, width - whole)
        return sum_of_lanes(code, total[0])


def _cycles(problem: Problem, blocks: Blocks, target: Target) -> float:
    each = ceil_div(min(blocks.block, blocks.depth), target.lanes)
    return problem.y.height * problem.y.width * blocks.number * (12.0 + 4.0 * each)


def each_block(code: Code, blocks: Blocks) -> Iterator[tuple[Operand, Operand, int]]:
    """Write loops over the blocks of a pixel: (its number, first channel, channels)."""
    for group in code.each(0, blocks.groups, name="group"):
        number = group * blocks.per_group
        for first, width, count in blocks.of_group:
            for i in code.each(0, count, name="block"):
                yield number + i, group * blocks.depth + (i * width + first), width
            number = number + count


def largest_magnitude(code: Code, source: Value, width: int) -> Value:
    """Return the largest magnitude of some numbers in every lane; NaN if one is NaN.

    As integers, magnitudes are in the same order, and NaN is above infinity.
    """
    type = ints(code, 32)

    def magnitudes(c: Operand, count: int = 0) -> Value:
        return code.binary("and", bits_of(code, code.load(source + c, count), type), 0x7FFFFFFF)

    whole = width - width % code.lanes
    found = code.value(0, type)
    if whole:

        def body(c: Operand, found: list[Value]) -> list[Value]:
            return [larger_ints(code, found[0], magnitudes(c))]

        (found,) = code.carry(0, whole, code.lanes, [found], body, "c")
    if width > whole:
        found = larger_ints(code, found, magnitudes(whole, width - whole))
    return bits_of(code, splat_int(code, largest_lane(code, found)), code.vector)


def shared_step(code: Code, largest: Value, blocks: Blocks) -> Value:
    """Return what a block's numbers are rounded to multiples of: a power of two, or NaN."""
    bound = 2 ** (blocks.exponent - 1)
    clamped = at_most(code, at_least(code, largest, 2.0**-bound), 2.0 ** (bound - 1))
    type = ints(code, 32)
    power = bits_of(code, code.binary("and", bits_of(code, clamped, type), _EXPONENT), code.vector)
    if blocks.exponent > _SAFE:  # 2^-127 and 2^-128 are no normal numbers: their bits are no exponent
        low = code.select(code.compare("olt", clamped, 2.0**-127), code.vec(2.0**-128), 2.0**-127)
        power = code.select(code.compare("olt", clamped, 2.0**-126), low, power)
    step = code.select(code.compare("uno", clamped, clamped), clamped, power) * 2.0 ** (2 - blocks.mantissa)
    return at_least(code, step, _SMALLEST) if blocks.exponent > _SAFE else step


def rounded(code: Code, numbers: Value, step: Value, blocks: Blocks) -> Value:
    """Return numbers divided by a step and rounded to the nearest integer, ties to even."""
    # a power of two's inverse is exact, where both are normal numbers
    quotient = numbers / step if blocks.exponent > _SAFE else numbers * (1.0 / step)
    return nearest(code, quotient)


def candidates(problem: BlockFloatingPoint | ToIntegers, target: Target) -> list[Kernel]:
    """Return the one way to do it, if the layouts allow."""
    if any(view.channel_pitch != 1 for view in problem.views):
        return []
    if isinstance(problem, ToIntegers):
        return [ToBytes(problem, target)]
    return [BlockFloat(problem, target)]
