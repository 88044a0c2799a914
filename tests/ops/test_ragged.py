"""Ragged groups: equal to the masked dense convolution for any groups, and plain where they are regular."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.ops.counting import count
from regroup.ops.order import ChannelOrder
from regroup.ops.ragged import RaggedGroupConv, ragged_conv
from regroup.spec import ConvSpec, Cost

SPECS = [ConvSpec(6, 5, 1, bias=True), ConvSpec(6, 5, 3, 2, 1), ConvSpec(6, 5, (3, 1), 1, (-1, 0), bias=True)]


def members(labels, groups):
    return [[c for c, label in enumerate(labels) if label == g] for g in range(groups)]


@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
    st.sampled_from(SPECS),
)
@settings(max_examples=60, deadline=None)
def test_any_groups_equal_the_masked_dense_convolution_exactly(of_input, of_output, spec):
    groups = list(zip(members(of_input, 4), members(of_output, 4), strict=True))
    weight = torch.randint(-8, 8, (5, 6, *spec.kernel_size)).float()
    bias = torch.randint(-8, 8, (5,)).float() if spec.bias else None
    x = torch.randint(-8, 8, (2, 6, 7, 7)).float()
    same = torch.tensor(of_output)[:, None] == torch.tensor(of_input)
    rows, columns = spec.padding
    expected = F.conv2d(
        F.pad(x, (columns, columns, rows, rows)), weight * same[:, :, None, None], bias, spec.stride
    )
    layer = ragged_conv(spec, groups, weight, bias)
    assert torch.equal(layer(x), expected)
    connected = int(same.sum()) * spec.taps
    macs = connected * expected[0, 0].numel()
    assert count(layer, (7, 7), 6) == Cost(connected + 5 * spec.bias, macs)


def test_equal_groups_become_one_convolution_and_orders_that_change_nothing_are_left_out():
    weight = torch.randn(4, 4, 1, 1)
    plain = ragged_conv(ConvSpec(4, 4, 1), [([0, 1], [0, 1]), ([2, 3], [2, 3])], weight)
    assert type(plain) is nn.Conv2d and plain.groups == 2
    ordered = ragged_conv(ConvSpec(4, 4, 1), [([0, 1], [0, 2]), ([2, 3], [1, 3])], weight)
    assert [type(layer) for layer in ordered] == [nn.Conv2d, ChannelOrder]


def test_groups_of_one_shape_share_one_convolution():
    groups = [([0, 1], [0]), ([2, 3, 4], [1, 2]), ([5, 6], [3]), ([], [4])]
    layer = ragged_conv(ConvSpec(8, 5, 1), groups, torch.randn(5, 8, 1, 1))
    assert isinstance(layer, RaggedGroupConv)
    assert [(c.in_channels, c.groups) for c in layer.convs] == [(4, 2), (3, 1)]
    assert layer.unreached == [4]


def test_the_learned_orders_are_saved_with_the_weights():
    weight, x = torch.randn(4, 4, 1, 1), torch.randn(1, 4, 3, 3)
    for first, second in (
        ([([0, 2], [0, 2]), ([1, 3], [1, 3])], [([3, 1], [0, 1]), ([2, 0], [2, 3])]),
        ([([0], [0]), ([1, 2, 3], [1, 2, 3])], [([2], [3]), ([0, 1, 3], [0, 1, 2])]),
    ):
        there, fresh = (ragged_conv(ConvSpec(4, 4, 1), groups, weight) for groups in (first, second))
        if isinstance(there, nn.Sequential):
            fresh = ragged_conv(ConvSpec(4, 4, 1), [([1, 3], [1, 3]), ([0, 2], [0, 2])], 2 * weight)
        fresh.load_state_dict(there.state_dict())
        assert torch.equal(fresh(x), there(x))


def test_channels_in_two_groups_or_beyond_the_last_are_refused():
    for groups in ([([0, 1], [0]), ([1, 2], [1])], [([0], [0, 4])]):
        with pytest.raises(SpecError, match="each once"):
            ragged_conv(ConvSpec(4, 4, 1), groups, torch.randn(4, 4, 1, 1))
