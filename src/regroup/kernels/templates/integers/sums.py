"""Exact sums of products of bytes: weights without a sign times integers with one. Ways to have them.

Which one is taken changes no result. Weights are below 2^bits, integers at most 2^(mantissa-1) in magnitude.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.integers import (
    broadcast_int,
    has_pairs,
    has_products_of_bytes,
    pairs_of_bytes,
    pairs_of_words,
    products_of_bytes,
    splat_int,
)
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import IntegerConv


class Way(ABC):
    """How products of bytes are summed.

    Attributes:
        name: for people.
        at_once: words (four products in each lane) that can be summed before `finish`.
        word_cycles: cycles that a word of one pixel and one vector takes.
        rest_cycles: cycles that `finish` takes.
    """

    name: str
    at_once: int = 1 << 30
    word_cycles: float
    rest_cycles: float = 0.0

    @abstractmethod
    def add(self, code: Code, sums: Value | None, weights: Value, source: Value) -> Value:
        """Add the products of a vector of weights and the four bytes at `source`."""

    def start(self, total: Value) -> Value | None:
        """Return what `add` begins with."""
        return total

    def finish(self, code: Code, total: Value, sums: Value) -> Value:
        """Return `total` and the sums as 32-bit integers."""
        return sums


class Bytes(Way):
    """One instruction for four products and their sum in 32 bits (VNNI)."""

    name, word_cycles = "vnni", 0.5

    def add(self, code: Code, sums: Value | None, weights: Value, source: Value) -> Value:
        assert sums is not None
        return products_of_bytes(code, sums, weights, broadcast_int(code, source))


class Pairs(Way):
    """Pairs of products in 16 bits, a few of them, and then pairs of these in 32.

    The sum of n pairs is at most 2n (2^bits - 1) 2^(mantissa - 1) in magnitude: `at_once` is the largest n
    for which that is below 2^15, so that nothing saturates.
    """

    name, word_cycles, rest_cycles = "pairs", 1.0, 1.0

    def __init__(self, bits: int, mantissa: int) -> None:
        self.at_once = (2**15 - 1) // (2 * (2**bits - 1) * 2 ** (mantissa - 1))

    def start(self, total: Value) -> Value | None:
        return None

    def add(self, code: Code, sums: Value | None, weights: Value, source: Value) -> Value:
        pairs = pairs_of_bytes(code, weights, broadcast_int(code, source))
        return pairs if sums is None else sums + pairs

    def finish(self, code: Code, total: Value, sums: Value) -> Value:
        return total + pairs_of_words(code, sums, code.value(1, sums.type))


class Lanes(Way):
    """Products in 32 bits, one byte of a word after the other: for any machine."""

    name, word_cycles = "lanes", 5.0

    def add(self, code: Code, sums: Value | None, weights: Value, source: Value) -> Value:
        assert sums is not None
        word = code.emit("i32", f"load i32, ptr {source}, align 4")
        for i in range(4):
            mine = code.binary("and", code.binary("lshr", weights, 8 * i), 255)
            up = code.emit("i32", f"shl i32 {word}, {24 - 8 * i}")
            one = code.emit("i32", f"ashr i32 {up}, 24")
            sums = sums + mine * splat_int(code, one)
        return sums


def fits(bits: int, mantissa: int, block: int) -> bool:
    """Tell whether sums over a block are exact, as 32-bit integers and as floats.

    Weights must be bytes without a sign, integers bytes with one, their sums at most 2^24 in magnitude; with
    the offset that weights have, sums are at most twice as large, and far from 2^31.
    """
    return bits <= 8 and mantissa <= 7 and 2 ** (bits - 1) * 2 ** (mantissa - 1) * block <= 2**24


def gains(bits: int, mantissa: int, block: int) -> bool:
    """Tell whether sums of integers are no slower than floats, on any machine that has more than `Lanes`.

    Scaling a block takes three operations more. Measured with AVX2 on ResNet-18 at 112x112 (all 3x3
    convolutions, against float32, mostly by Winograd's algorithm), blocks of 16 are 8 per cent quicker where
    eight words are summed at once, blocks of 32 are 1 per cent quicker where it is one; blocks of 16 with one
    are 26 per cent slower.
    """
    return block >= 32 or (block >= 16 and Pairs(bits, mantissa).at_once >= 4)


def ways(problem: IntegerConv, target: Target) -> Sequence[Way]:
    """Return those that the CPU has for a problem."""
    bits, mantissa = problem.bits, problem.form.blocks.mantissa
    found: list[Way] = [Bytes()] if has_products_of_bytes(target) else []
    pairs = Pairs(bits, mantissa)
    found += [pairs] if has_pairs(target) and pairs.at_once else []
    return [*found, Lanes()]
