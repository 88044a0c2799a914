"""Packed integers come back, and take as many bits as is said."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regroup.ops.bitpacking import pack_bits, packed_bytes, unpack_bits


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(0, 70), st.randoms(use_true_random=False))
def test_what_is_packed_comes_back_from_as_few_bytes_as_can_be(bits, count, random):
    values = [random.randrange(2**bits) for _ in range(count)]
    packed = pack_bits(torch.tensor(values, dtype=torch.int16), bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(count, bits) == -(-count * bits // 8)
    assert unpack_bits(packed, bits, count).tolist() == values


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=20))
def test_the_bytes_are_one_long_binary_number_lowest_bits_first(bits, values):
    values = [v % 2**bits for v in values]
    number = sum(v << (i * bits) for i, v in enumerate(values))
    packed = pack_bits(torch.tensor(values, dtype=torch.int64), bits)
    assert bytes(packed.tolist()) == number.to_bytes(packed_bytes(len(values), bits), "little")
