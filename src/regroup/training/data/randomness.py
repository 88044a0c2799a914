"""Random numbers that are a pure function of what they are for, not of who asks first.

>>> int(scramble(7, 0, 3)) == int(scramble(7, 0, [1, 2, 3])[2])
True

The order of an epoch, the warp of an image, the drawing of a glyph: each is keyed by (seed, epoch,
index) and the like, so neither the number of workers nor a resume can change it. The numbers come from
integer arithmetic alone (splitmix64: Steele, Lea, Flood 2014) and are the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def scramble(*key: ArrayLike) -> np.ndarray:
    """Return 64 random bits for each key; the parts of the key broadcast against each other.

    Args:
        key: integers or arrays of integers, negative ones too.
    """
    bits = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        for part in key:
            bits = _finalise(bits + _unsigned(part) + _GOLDEN)
    return bits


def uniform(*key: ArrayLike) -> np.ndarray:
    """Return a float64 in [0, 1) for each key, as `scramble` does bits."""
    return (scramble(*key) >> np.uint64(11)) * 2.0**-53


def permutation(count: int, *key: int) -> np.ndarray:
    """Return the numbers below `count` in an order that depends on the key alone.

    >>> sorted(permutation(5, 0, 1).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(scramble(*key, np.arange(count)), kind="stable")


def generator(*key: int) -> torch.Generator:
    """Return a generator of PyTorch's that begins as the key says.

    >>> torch.equal(torch.rand(2, generator=generator(1, 2)), torch.rand(2, generator=generator(1, 2)))
    True
    """
    return torch.Generator().manual_seed(int(scramble(*key)) >> 1)


class Dice:
    """Streams of numbers, one for each of several images; a further throw gives the next of each stream.

    >>> together, alone = Dice(5, [0, 1, 2]), Dice(5, [2])
    >>> [bool(together.between(0, 1)[2] == alone.between(0, 1)[0]) for throw in range(3)]
    [True, True, True]

    Args:
        key: as of `scramble`; its last part numbers the images.
    """

    def __init__(self, *key: ArrayLike) -> None:
        self._streams = scramble(*key).astype(np.int64)
        self._throws = 0

    def __len__(self) -> int:
        return len(self._streams)

    def between(self, low: float, high: float, count: int | None = None) -> np.ndarray:
        """Return float32 in low..high, shape (images,), or (images, count)."""
        return (low + (high - low) * self._throw(count)).astype(np.float32)

    def below(self, end: int, count: int | None = None) -> np.ndarray:
        """Return integers from 0 up to `end`, without it, shape (images,), or (images, count)."""
        return (self._throw(count) * end).astype(np.int64)

    def chance(self, probability: float) -> np.ndarray:
        """Return whether it happens, bool, shape (images,)."""
        return self._throw(None) < probability

    def _throw(self, count: int | None) -> np.ndarray:
        first, self._throws = self._throws, self._throws + (count or 1)
        if count is None:
            return uniform(self._streams, first)
        return uniform(self._streams[:, None], np.arange(first, first + count))


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and PyTorch's CPU inside the block, and put them back after it.

    For code of others that draws from the global generators.
    """
    seed = int(scramble(*key))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed >> 1)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _unsigned(part: ArrayLike) -> np.ndarray:
    if isinstance(part, int):
        return np.asarray(part & 0xFFFFFFFFFFFFFFFF, np.uint64)
    return np.asarray(part).astype(np.int64).astype(np.uint64)


def _finalise(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
