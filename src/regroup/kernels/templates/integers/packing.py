"""Integers of 2 to 8 bits without gaps, in the order in which code unpacks them: a vector of bytes at a time.

Eight vectors of bytes take as many vectors as an integer has bits. Bits are kept in planes of 4, 2 and 1; a
byte of a plane of 2 bits holds those of four vectors' bytes. Unpacking is a shift and a mask for each plane.

>>> planes(7)
[(4, 0), (2, 4), (1, 6)]
>>> pack(np.arange(32, dtype=np.uint8).reshape(8, 4) % 8, 3).shape
(3, 4)
"""

from __future__ import annotations

import numpy as np

from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.integers import ints, load_ints

BATCH = 8
"""Vectors that are packed together."""


def planes(bits: int) -> list[tuple[int, int]]:
    """Return the planes of integers as (bits, place of the lowest one)."""
    found, place = [], 0
    for width in (8, 4, 2, 1):
        if bits & width:
            found.append((width, place))
            place += width
    return found


def pack(vectors: np.ndarray, bits: int) -> np.ndarray:
    """Return uint8 (vectors, bytes), a multiple of `BATCH` of them, as (vectors / BATCH * bits, bytes)."""
    batches = vectors.reshape(-1, BATCH, vectors.shape[1])
    stored = []
    for width, place in planes(bits):
        digits = (batches >> place) & (2**width - 1)
        each = 8 // width  # vectors that share a byte
        shared = digits.reshape(len(batches), -1, each, vectors.shape[1])
        shifts = (np.arange(each, dtype=np.uint8) * width)[:, None]
        stored.append(np.bitwise_or.reduce((shared << shifts).astype(np.uint8), axis=2))
    return np.concatenate(stored, axis=1).reshape(-1, vectors.shape[1])


def unpack(code: Code, source: Value, bits: int) -> list[Value]:
    """Return the vectors of a batch that is packed at `source`."""
    found: list[Value | None] = [None] * BATCH
    row = 0
    for width, place in planes(bits):
        each = 8 // width
        for first in range(0, BATCH, each):
            stored = load_ints(code, source + row * code.lanes)
            row += 1
            for i in range(each):
                digits = _digits(code, stored, width, width * i, place)
                before = found[first + i]
                found[first + i] = digits if before is None else code.binary("or", before, digits)
    return [one for one in found if one is not None]


def _digits(code: Code, stored: Value, width: int, low: int, place: int) -> Value:
    """Return `width` bits from bit `low` of every byte on, moved to bit `place`."""
    if width == 8:
        return stored
    assert stored.type == ints(code, 32)  # bits that cross to the next byte are masked away
    by = low - place
    moved = code.binary("lshr" if by > 0 else "shl", stored, abs(by)) if by else stored
    mask = int.from_bytes(bytes([(2**width - 1) << place] * 4), "little")
    return code.binary("and", moved, mask)
