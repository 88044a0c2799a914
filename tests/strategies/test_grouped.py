"""Grouped convolution against two towers, a block-diagonal kernel, and the limits that have names."""

import pytest
import torch
from torch.nn import functional as F

from regroup.errors import StrategyError
from regroup.spec import ConvSpec
from regroup.strategies.dense import Dense
from regroup.strategies.grouped import Grouped


def test_two_groups_are_alexnets_two_towers():
    module = Grouped(groups=2).build(ConvSpec(96, 256, 5, padding=2, bias=True)).double()
    x = torch.randn(1, 96, 9, 9, dtype=torch.float64)
    halves = zip(x.chunk(2, 1), module.weight.chunk(2), module.bias.chunk(2), strict=True)
    towers = [F.conv2d(half, weight, bias, padding=2) for half, weight, bias in halves]
    torch.testing.assert_close(module(x), torch.cat(towers, 1))


def test_the_limits_are_dense_and_depthwise():
    spec = ConvSpec(8, 16, 3, padding=1)
    assert Grouped(groups=1).cost(spec, (5, 5)) == Dense().cost(spec, (5, 5))
    assert Grouped(groups=8).cost(spec, (5, 5)).parameters == 16 * 9
    assert Grouped(group_width=1).reach(spec).sum() == 16


@pytest.mark.parametrize("groups", [1, 2, 4, 8, 16, 32])
def test_the_cost_is_the_dense_one_divided_by_the_groups(groups):
    spec = ConvSpec(64, 32, 3, stride=2, padding=1)
    dense, grouped = Dense().cost(spec, (56, 56)), Grouped(groups=groups).cost(spec, (56, 56))
    assert (grouped.parameters * groups, grouped.macs * groups) == (dense.parameters, dense.macs)


def test_groups_by_width_follow_the_channels():
    by_width = Grouped(group_width=4)
    assert [by_width.groups_of(ConvSpec(c, 24, 3)) for c in (4, 8, 24)] == [1, 2, 6]


@pytest.mark.parametrize(
    ("fields", "channels", "message"),
    [
        (
            {"groups": 3},
            (64, 64),
            "groups=3: must be a divisor of in_channels=64 and out_channels=64",
        ),
        ({"groups": 4}, (64, 6), "use one of 1, 2$"),
        ({"group_width": 3}, (64, 64), "group_width=3: must be a divisor of in_channels=64"),
        ({"group_width": 4}, (64, 8), "groups=16: must be a divisor of in_channels=64 and out_channels=8"),
    ],
)
def test_channels_that_the_groups_do_not_divide_are_refused(fields, channels, message):
    with pytest.raises(StrategyError, match=message):
        Grouped(**fields).build(ConvSpec(*channels, 3))


@pytest.mark.parametrize("fields", [{"groups": 2, "group_width": 2}, {"groups": 0}, {"group_width": -1}])
def test_wrong_parameters_are_refused_at_once(fields):
    with pytest.raises(StrategyError):
        Grouped(**fields)
