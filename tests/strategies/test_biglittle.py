"""Big-Little: the two branches and their sum, at every size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from regroup.errors import StrategyError
from regroup.ops.counting import count
from regroup.ops.reach import measured_reach
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy, sample_size
from regroup.strategies.biglittle import BigLittle

SPECS = [
    ConvSpec(6, 8, 3, padding=1),
    ConvSpec(6, 8, 3, stride=2, padding=1, bias=True),
    ConvSpec(6, 8, (3, 5), stride=(1, 2), padding=(1, 0)),
    ConvSpec(6, 8, 3, padding=2, dilation=2),
    ConvSpec(6, 4, 1, bias=True),
    ConvSpec(6, 4, 4, padding=1),
    ConvSpec(6, 4, 3, padding=-1),
]
SETTINGS = [*BigLittle.variants(), BigLittle(), BigLittle(alpha=4), BigLittle(alpha=1, act="silu")]


def test_the_sum_is_the_papers():
    module = BigLittle(alpha=2, norm=True, act="relu").build(ConvSpec(6, 8, 3, padding=1)).double().eval()
    x = torch.randn(2, 6, 10, 10, dtype=torch.float64)
    (big, big_norm), (little, between, expand, norm) = module.big, module.little
    coarse = big_norm(F.conv2d(x, big.weight, stride=2, padding=1))
    fine = norm(F.conv2d(F.relu(between[0](F.conv2d(x, little.weight, padding=1))), expand.weight))
    torch.testing.assert_close(module(x), fine + F.interpolate(coarse, scale_factor=2))


def test_the_cost_is_a_quarter_and_an_alphath_of_dense_and_the_1x1():
    spec = ConvSpec(64, 64, 3, padding=1)
    dense = spec.cost((32, 32)).macs
    assert BigLittle(alpha=4).cost(spec, (32, 32)).macs == dense / 4 + dense / 4 + 64 * 16 * 32 * 32


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("biglittle", SETTINGS, ids=str)
def test_cost_reach_shape_and_reference_agree_with_the_module(biglittle, spec):
    module = biglittle.build(spec).double()
    for size in ((16, 16), (7, 9), (6, 5)):
        x = torch.randn(2, spec.in_channels, *size, dtype=torch.float64)
        assert tuple(module(x).shape[2:]) == spec.output_size(size)
        module.eval()
        torch.testing.assert_close(module(x), biglittle.reference(module, x))
        module.train()
        assert count(biglittle.build(spec), size, spec.in_channels) == biglittle.cost(spec, size)
    measured = measured_reach(module, spec.in_channels, sample_size(spec))
    assert torch.equal(measured, biglittle.reach(spec))


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 2),
)
def test_every_size_that_dense_takes_is_taken(size, stride, padding):
    spec = ConvSpec(2, 4, 1 + padding, stride, padding)
    module = BigLittle().build(spec).double()
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(module(x), BigLittle().reference(module, x))
    assert tuple(module(x).shape[2:]) == spec.output_size(size)


def test_wrong_parameters_are_said():
    with pytest.raises(StrategyError, match="alpha=3: must be a divisor of out_channels=8; use one of"):
        BigLittle(alpha=3).build(ConvSpec(6, 8, 3))
    with pytest.raises(StrategyError, match="alpha=0"):
        BigLittle(alpha=0)
    with pytest.raises(StrategyError, match="act='tanh'"):
        BigLittle(act="tanh")


@pytest.mark.parametrize("biglittle", SETTINGS, ids=str)
def test_a_label_is_read_back(biglittle):
    assert parse_strategy(biglittle.label) == biglittle
