"""Block floating point: a pixel's channels, block by block: the largest exponent, then powers of two.

All of it is exact but the rounding that is asked for: bits are compared as integers, an exponent is a mask.
"""

from __future__ import annotations

from collections.abc import Iterator

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.functions import at_least, at_most
from regroup.kernels.language.integers import bits_of, ints, larger_ints, largest_lane, splat_int
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import BlockFloatingPoint
from regroup.kernels.templates.base import ceil_div
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
        self.form = problem
        each = ceil_div(min(problem.block, problem.y.channels), target.lanes)
        blocks = sum(count for *_, count in block_runs(problem))
        self.cycles = problem.y.height * problem.y.width * blocks * (40.0 + 6.0 * each)

    def _pixel(self, code: Code, views: list[Value], y: Operand, x: Operand) -> None:
        form = self.form
        source, out = self._addresses(views, y, x)
        for start, width in each_block(code, form):
            step = shared_step(code, largest_magnitude(code, source + start, width), form)
            for c, count in vectors(code, width, start):
                code.store(rounded(code, code.load(source + c, count), step, form) * step, out + c, count)


def block_runs(form: BlockFloatingPoint) -> list[tuple[int, int, int]]:
    """Return the blocks as (first channel, channels, how many follow one another)."""
    depth = form.x.channels // form.groups
    whole, rest = divmod(depth, form.block)
    found = []
    for first in range(0, form.x.channels, depth):
        found += [(first, form.block, whole)] if whole else []
        found += [(first + whole * form.block, rest, 1)] if rest else []
    if not rest and form.groups > 1:  # all alike, one after the other
        return [(0, form.block, whole * form.groups)]
    return found


def each_block(code: Code, form: BlockFloatingPoint) -> Iterator[tuple[Operand, int]]:
    """Write loops over the blocks of a pixel: (first channel, channels)."""
    for first, width, number in block_runs(form):
        for block in code.each(0, number, name="block"):
            yield block * width + first, width


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


def shared_step(code: Code, largest: Value, form: BlockFloatingPoint) -> Value:
    """Return what a block's numbers are rounded to multiples of: a power of two, or NaN."""
    bound = 2 ** (form.exponent - 1)
    clamped = at_most(code, at_least(code, largest, 2.0**-bound), 2.0 ** (bound - 1))
    type = ints(code, 32)
    power = bits_of(code, code.binary("and", bits_of(code, clamped, type), _EXPONENT), code.vector)
    if form.exponent > _SAFE:  # 2^-127 and 2^-128 are no normal numbers: their bits are no exponent
        low = code.select(code.compare("olt", clamped, 2.0**-127), code.vec(2.0**-128), 2.0**-127)
        power = code.select(code.compare("olt", clamped, 2.0**-126), low, power)
    step = code.select(code.compare("uno", clamped, clamped), clamped, power) * 2.0 ** (2 - form.mantissa)
    return at_least(code, step, _SMALLEST) if form.exponent > _SAFE else step


def rounded(code: Code, numbers: Value, step: Value, form: BlockFloatingPoint) -> Value:
    """Return numbers divided by a step and rounded to the nearest integer, ties to even."""
    # a power of two's inverse is exact, where both are normal numbers
    quotient = numbers / step if form.exponent > _SAFE else numbers * (1.0 / step)
    return code.call("llvm.roundeven", quotient)


def candidates(problem: BlockFloatingPoint, target: Target) -> list[BlockFloat]:
    """Return the one way to do it, if the layouts allow."""
    if any(view.channel_pitch != 1 for view in problem.views):
        return []
    return [BlockFloat(problem, target)]
