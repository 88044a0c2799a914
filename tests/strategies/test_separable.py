"""Separable convolution against its explicit sums, the published cost ratio and the order of its outputs."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from regroup.errors import StrategyError
from regroup.spec import ConvSpec
from regroup.strategies.dense import Dense
from regroup.strategies.separable import ORDERS, Separable


def test_it_is_the_sum_of_filtered_channels():
    """Check y[k] = sum over c, j of p[k, c*m + j] (d[c, j] * x[c]), Keras' order of the depthwise outputs."""
    module = Separable(multiplier=2).build(ConvSpec(3, 5, 3)).double()
    depthwise, pointwise = module[0].weight.view(3, 2, 3, 3), module[2].weight.view(5, 3, 2)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    windows = x[0].unfold(1, 3, 1).unfold(2, 3, 1)  # channel, row, column, kernel
    torch.testing.assert_close(
        module(x)[0], torch.einsum("cpqrs,cjrs,kcj->kpq", windows, depthwise, pointwise)
    )


def test_the_other_order_mixes_first():
    module = Separable(order=ORDERS[1], multiplier=2).build(ConvSpec(3, 4, 3)).double()
    pointwise, depthwise = module[0].weight.view(2, 3), module[2].weight.view(2, 2, 3, 3)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    windows = x[0].unfold(1, 3, 1).unfold(2, 3, 1)
    expected = torch.einsum("cpqrs,ic,ijrs->ijpq", windows, pointwise, depthwise).flatten(0, 1)
    torch.testing.assert_close(module(x)[0], expected)


@pytest.mark.parametrize(("channels", "outputs", "kernel"), [(64, 128, 3), (32, 32, 5), (16, 24, 1)])
def test_the_cost_ratio_is_mobilenets(channels, outputs, kernel):
    spec = ConvSpec(channels, outputs, kernel, padding=kernel // 2)
    separable, dense = Separable().cost(spec, (14, 14)), Dense().cost(spec, (14, 14))
    assert Fraction(separable.macs, dense.macs) == Fraction(1, outputs) + Fraction(1, kernel * kernel)


def test_norm_and_activation_stand_between():
    module = Separable(norm=True, act="relu6").build(ConvSpec(4, 8, 3))
    assert [type(m) for m in module[1]] == [nn.BatchNorm2d, nn.ReLU6]
    assert len(Separable().build(ConvSpec(4, 8, 3))[1]) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": "both"}, "order='both': must be one of depthwise-pointwise"),
        ({"act": "gelu"}, "act='gelu': must be one of relu"),
        ({"multiplier": 0}, "multiplier=0"),
    ],
)
def test_wrong_parameters_are_refused_at_once(fields, message):
    with pytest.raises(StrategyError, match=message):
        Separable(**fields)


def test_a_multiplier_that_does_not_divide_the_outputs_is_refused():
    with pytest.raises(StrategyError, match="multiplier=3: must be a divisor of out_channels=8"):
        Separable(order=ORDERS[1], multiplier=3).build(ConvSpec(4, 8, 3))
