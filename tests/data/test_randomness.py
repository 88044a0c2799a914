import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from regroup.training.data.randomness import Dice, permutation, scramble, seeded, uniform

integers = st.integers(-(2**63), 2**63 - 1)


def _reference_splitmix(state: int) -> int:
    """Return the first output of splitmix64 as its authors' C code gives it, in Python's integers."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@given(integers)
def test_one_part_is_splitmix64(part):
    assert int(scramble(part)) == _reference_splitmix(part)


def test_the_published_first_number_of_splitmix64():
    assert int(scramble(1234567)) == 6457827717110365317


@given(st.lists(integers, min_size=2, max_size=4))
def test_a_key_is_the_same_alone_and_in_an_array(key):
    together = scramble(*key[:-1], np.array([0, key[-1], 1]))
    assert together[1] == scramble(*key)


@given(integers, integers)
def test_the_order_of_the_parts_matters(one, other):
    assert one == other or scramble(one, other) != scramble(other, one)


@given(st.integers(0, 300), integers, integers)
def test_a_permutation_holds_every_number_once(count, seed, epoch):
    assert sorted(permutation(count, seed, epoch)) == list(range(count))


def test_every_permutation_of_four_is_about_as_frequent():
    seen = np.unique([permutation(4, 9, epoch) for epoch in range(24_000)], axis=0, return_counts=True)[1]
    chi_square = ((seen - 1000) ** 2 / 1000).sum()
    assert len(seen) == 24
    assert chi_square < 60  # 23 degrees of freedom: exceeded by chance once in 30,000


def test_uniform_numbers_fill_the_interval_evenly():
    counts = np.histogram(uniform(3, np.arange(100_000)), bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 170  # 99 degrees of freedom


def test_throws_of_one_stream_do_not_depend_on_the_others():
    many, few = Dice(4, np.arange(10)), Dice(4, [7, 2])
    for throw in (
        lambda d: d.between(-1, 3),
        lambda d: d.below(9),
        lambda d: d.chance(0.5),
        lambda d: d.between(0, 1, count=5),
        lambda d: d.below(100, count=2),
    ):
        assert np.array_equal(throw(many)[[7, 2]], throw(few))


def test_throws_follow_each_other_without_repeating():
    dice = Dice(0, np.arange(50))
    throws = [*dice.between(0, 1, count=3).T, dice.between(0, 1), dice.between(0, 1)]
    assert len(np.unique(throws)) == 250


def test_seeded_decides_all_three_generators_and_leaves_no_trace():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    without = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(5, 6):
        first = draw()
    assert draw() == without
    with seeded(5, 6):
        assert draw() == first
    with seeded(6, 5):
        assert draw() != first
