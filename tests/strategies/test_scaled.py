"""ScaleNet's aggregation of scales: its definition, its official corner cases, its cost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from regroup.errors import SpecError, StrategyError
from regroup.ops.counting import count
from regroup.ops.reach import measured_reach
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy, sample_size
from regroup.strategies.scaled import Scaled, ScaledConv, shares

SPECS = [
    ConvSpec(6, 12, 3, padding=1),
    ConvSpec(6, 12, 3, stride=2, padding=1, bias=True),
    ConvSpec(6, 3, (3, 5), stride=(1, 2), padding=(1, 2)),
    ConvSpec(6, 9, 3, padding=2, dilation=2),
    ConvSpec(6, 12, 1, bias=True),
    ConvSpec(6, 1, 1, stride=3),
]
SETTINGS = [
    *Scaled.variants(),
    Scaled(norm=True, act="relu"),
    Scaled(scales=(1, 3), allocation=(2, 1)),
    Scaled(allocation=(0, 1, 0, 2)),
]


@pytest.mark.parametrize("side", [56, 28, 14, 7])
def test_the_block_of_the_official_networks_is_given_back(side):
    widths = [5, 4, 3, 2]
    scaled = Scaled(allocation=tuple(widths), norm=True, act="relu")
    module = scaled.build(ConvSpec(3, 14, 3, padding=1)).double()
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    parts = []
    for r in (1, 2, 4, 7):
        pooled = F.max_pool2d(x, r, r) if r > 1 else x
        y = F.conv2d(pooled, module.scaled.convs[str(r)].weight, padding=1)
        if side % y.shape[2] == 0:
            y = F.interpolate(y, size=(side, side), mode="nearest")
        else:
            y = F.interpolate(y, size=(side, side), mode="bilinear")
        parts.append(F.batch_norm(y, None, None, training=True))
    torch.testing.assert_close(module(x), F.relu(torch.cat(parts, 1)))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("scaled", SETTINGS, ids=str)
def test_cost_reach_shape_and_reference_agree_with_the_module(scaled, spec):
    module = scaled.build(spec).double()
    module(torch.randn(4, spec.in_channels, 8, 8, dtype=torch.float64))
    module.eval()
    for size in ((16, 16), (7, 9), (5, 4), (2, 2), (1, 1)):
        x = torch.randn(2, spec.in_channels, *size, dtype=torch.float64)
        assert tuple(module(x).shape[2:]) == spec.output_size(size)
        torch.testing.assert_close(module(x), scaled.reference(module, x))
        assert count(scaled.build(spec), size, spec.in_channels) == scaled.cost(spec, size)
    measured = measured_reach(module, spec.in_channels, sample_size(spec))
    assert torch.equal(measured, scaled.reach(spec))


def test_as_many_parameters_as_dense_and_a_scale_r_takes_r_squared_times_less():
    spec = ConvSpec(64, 64, 3, padding=1)
    dense, scaled = spec.cost((56, 56)), Scaled().cost(spec, (56, 56))
    assert scaled.parameters == dense.parameters
    assert scaled.macs == dense.macs / 4 * (1 + 1 / 4 + 1 / 16 + 1 / 49)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any))
def test_shares_add_up_and_are_within_one_of_the_proportion(channels, allocation):
    widths = shares(channels, allocation)
    assert sum(widths) == channels
    for width, a in zip(widths, allocation, strict=True):
        assert abs(width - channels * a / sum(allocation)) < 1
    assert shares(sum(allocation), allocation) == allocation


def test_equal_shares_leave_the_rest_to_the_finest():
    assert shares(10, (1, 1, 1, 1)) == [3, 3, 2, 2]
    assert shares(1, (1, 1, 1, 1)) == [1, 0, 0, 0]


def test_a_scale_may_have_a_kernel_of_its_own():
    specs = {1: ConvSpec(4, 3, 3, padding=1), 7: ConvSpec(4, 2, 1)}
    assert ScaledConv(specs)(torch.randn(2, 4, 7, 7)).shape == (2, 5, 7, 7)


def test_wrong_parameters_are_said():
    with pytest.raises(StrategyError, match=r"allocation=\(1, 1\): must be 4 proportions"):
        Scaled(allocation=(1, 1))
    with pytest.raises(StrategyError, match=r"scales=\(1, 1\)"):
        Scaled(scales=(1, 1), allocation=(1, 1))
    with pytest.raises(StrategyError, match="act='tanh'"):
        Scaled(act="tanh")
    with pytest.raises(SpecError, match=r"padding=\(0, 0\): must be \(1, 1\)"):
        Scaled().build(ConvSpec(4, 4, 3))


@pytest.mark.parametrize("scaled", SETTINGS, ids=str)
def test_a_label_is_read_back(scaled):
    assert parse_strategy(scaled.label) == scaled
