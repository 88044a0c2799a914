"""Layers that choose their inputs: definition, loading, a fresh one's index."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.ops.indexed import IndexedGroupConv, IndexedLinear, spread
from regroup.spec import ConvSpec


def test_the_layer_is_one_dense_convolution_with_a_sparse_kernel_where_norm_is_off():
    spec, groups, kept = ConvSpec(6, 4, 3, padding=1), 2, 2
    layer = IndexedGroupConv(spec, groups, kept, norm=False, act="none").double()
    layer.index.copy_(torch.tensor([5, 0, 0, 3]))  # input 0 feeds both groups; 1, 2 and 4 feed none
    dense = torch.zeros(4, 6, 3, 3, dtype=torch.float64)
    for group, inputs in enumerate(([5, 0], [0, 3])):
        for row in range(2):
            for column, source in enumerate(inputs):
                dense[row * groups + group, source] = layer.conv.weight[group * 2 + row, column]
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv2d(x, dense, padding=1))


def test_an_input_has_a_norm_of_its_own_in_every_group():
    layer = IndexedGroupConv(ConvSpec(4, 4, 1), 2, 4)
    assert layer.norm.num_features == 8


def test_a_linear_layer_reads_what_its_index_says():
    layer = IndexedLinear(6, 3, 2)
    layer.index.copy_(torch.tensor([4, 1]))
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer(x), F.linear(x[:, [4, 1]], layer.weight, layer.bias))


@given(st.integers(1, 40), st.integers(1, 5), st.data())
def test_a_fresh_index_is_inside_and_has_no_input_twice_in_a_group(inputs, groups, data):
    kept = data.draw(st.integers(1, inputs))
    index = spread(inputs, kept, groups).view(groups, kept)
    assert 0 <= int(index.min()) <= int(index.max()) < inputs
    assert all(len(row.unique()) == kept for row in index)


def test_a_fresh_condensed_layer_reads_every_input_once():
    assert spread(12, 3, 4).sort().values.tolist() == list(range(12))


def test_the_index_is_loaded_and_one_that_points_outside_is_refused():
    layer = IndexedGroupConv(ConvSpec(6, 4, 1), 2, 2)
    layer.index.copy_(torch.tensor([5, 4, 3, 2]))
    other = IndexedGroupConv(ConvSpec(6, 4, 1), 2, 2)
    other.load_state_dict(layer.state_dict())
    assert other.index.tolist() == [5, 4, 3, 2]
    wrong = copy.deepcopy(layer.state_dict())
    wrong["index"][0] = 6
    with pytest.raises(RuntimeError, match="index points outside the 6 channels"):
        other.load_state_dict(wrong)
    wrong = IndexedLinear(6, 3, 2).state_dict()
    wrong["index"][0] = -1
    with pytest.raises(RuntimeError, match="index points outside the 6"):
        IndexedLinear(6, 3, 2).load_state_dict(wrong)


def test_keeping_too_much_or_nothing_is_refused():
    with pytest.raises(SpecError, match="kept=9: must be within 1"):
        IndexedGroupConv(ConvSpec(8, 8, 1), 2, 9)
