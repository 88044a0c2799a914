"""Integers of a few bits, packed without gaps.

>>> packed = pack_bits(torch.tensor([1, 2, 3, 4, 5]), bits=3)
>>> len(packed), unpack_bits(packed, bits=3, count=5).tolist()
(2, [1, 2, 3, 4, 5])
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` integers of `bits` bits take."""
    return (count * bits + 7) // 8


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """Return integers within 0 ... 2^bits - 1 as uint8 (packed_bytes(len(values), bits),).

    The lowest bit of the first integer is the lowest bit of the first byte, and so on; the last byte is
    filled up with zeros.
    """
    flat = values.flatten()
    digits = torch.stack([(flat >> i & 1).to(torch.uint8) for i in range(bits)], 1).flatten()
    digits = torch.nn.functional.pad(digits, (0, -len(digits) % 8)).view(-1, 8)
    packed = torch.zeros(len(digits), dtype=torch.uint8)
    for i in range(8):
        packed |= digits[:, i] << i
    return packed


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the `count` integers that `pack_bits` packed: int16 (count,)."""
    digits = torch.stack([packed >> i & 1 for i in range(8)], 1).flatten()[: count * bits].view(count, bits)
    values = torch.zeros(count, dtype=torch.int16)
    for i in range(bits):
        values |= digits[:, i].to(torch.int16) << i
    return values
