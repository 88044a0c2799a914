"""Channel orders against torch's shuffle, and the algebra of permutations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from regroup.errors import ParameterError
from regroup.ops.order import ChannelOrder, ChannelShuffle, compose, inverse, is_permutation, shuffle

permutations = st.integers(1, 40).flatmap(lambda n: st.permutations(range(n))).map(torch.tensor)
groups_and_width = st.tuples(st.integers(1, 12), st.integers(1, 12))


def images(channels):
    return torch.arange(2 * channels * 6, dtype=torch.float32).view(2, channels, 2, 3)


@given(groups_and_width)
def test_both_forms_of_the_shuffle_are_torchs(drawn):
    groups, width = drawn
    x = images(groups * width)
    expected = nn.ChannelShuffle(groups)(x)
    assert torch.equal(ChannelShuffle(groups)(x), expected)
    assert torch.equal(ChannelOrder(shuffle(groups * width, groups))(x), expected)
    in_last = ChannelShuffle(groups)(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(in_last, expected)


@given(groups_and_width)
def test_the_shuffle_sends_channel_j_n_plus_i_to_i_g_plus_j(drawn):
    groups, width = drawn
    order = shuffle(groups * width, groups)
    for i in range(width):
        for j in range(groups):
            assert order[i * groups + j] == j * width + i


@given(groups_and_width)
def test_the_shuffle_by_the_other_number_undoes_it(drawn):
    groups, width = drawn
    channels = groups * width
    assert torch.equal(inverse(shuffle(channels, groups)), shuffle(channels, width))


@given(permutations)
def test_an_order_and_its_inverse_cancel(order):
    nothing = torch.arange(len(order))
    assert torch.equal(compose(order, inverse(order)), nothing)
    assert torch.equal(compose(inverse(order), order), nothing)
    assert torch.equal(inverse(inverse(order)), order)


@given(permutations, st.randoms(use_true_random=False))
def test_composing_is_applying_one_after_the_other(first, random):
    then = torch.tensor(random.sample(range(len(first)), len(first)))
    x = images(len(first))
    both = ChannelOrder(then)(ChannelOrder(first)(x))
    assert torch.equal(ChannelOrder(compose(first, then))(x), both)


@given(permutations)
def test_what_uses_each_channel_once_is_a_permutation(order):
    n = len(order)
    assert is_permutation(order, n)
    assert not is_permutation(order, n + 1)
    assert not is_permutation(torch.cat([order[1:], order[:1] + n]), n)
    if n > 1:
        assert not is_permutation(torch.cat([order[1:], order[1:2]]), n)


def test_a_selection_may_repeat_and_leave_out():
    assert ChannelOrder([2, 2, 0])(images(3)).shape == (2, 3, 2, 3)
    assert torch.equal(ChannelOrder([2, 2, 0])(images(3)), images(3)[:, [2, 2, 0]])


def test_the_order_is_no_weight():
    assert not ChannelOrder([1, 0]).state_dict()
    assert not list(ChannelOrder([1, 0]).parameters())
    assert repr(ChannelOrder([1, 0])) == "ChannelOrder(channels=2)"
    assert repr(ChannelShuffle(3)) == "ChannelShuffle(groups=3)"


@pytest.mark.parametrize("groups", [0, 4, -2])
def test_groups_that_do_not_divide_the_channels_are_refused(groups):
    with pytest.raises(ParameterError, match=f"groups={groups}: must be a divisor of the 6 channels"):
        shuffle(6, groups)
