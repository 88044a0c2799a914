"""Interleaved convolutions against their matrix formulas, path counts and pytorchcv's IGCV3 unit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from regroup.errors import StrategyError
from regroup.spec import ConvSpec
from regroup.strategies.dense import Dense
from regroup.strategies.interleaved import Interleaved, LowRankUnit


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(("partitions", "width"), [(4, 3), (6, 2), (2, 6)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_version_1_is_the_papers_product_of_matrices(partitions, width, kernel):
    """Check x' = P W_d P^T W_p x with explicit permutation and block matrices (IGCV1, equation 4)."""
    channels = partitions * width
    spec = ConvSpec(channels, channels, kernel, padding=kernel // 2)
    module = Interleaved(primary=partitions).build(spec).double()
    primary, secondary = convolutions(module)
    w_p = torch.zeros(channels, channels, kernel, kernel, dtype=torch.float64)
    for p in range(partitions):
        block = slice(p * width, (p + 1) * width)
        w_p[block, block] = primary.weight[block]
    w_d = torch.block_diag(*secondary.weight[:, :, 0, 0].view(width, partitions, partitions))
    # secondary partition j collects channel j of every primary partition
    gather = torch.zeros(channels, channels, dtype=torch.float64)
    for j in range(width):
        for p in range(partitions):
            gather[j * partitions + p, p * width + j] = 1
    kernel_of_all = torch.einsum("ij,jcrs->icrs", gather.T @ w_d @ gather, w_p)
    x = torch.randn(2, channels, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x), F.conv2d(x, kernel_of_all, padding=kernel // 2))


@st.composite
def settings_and_channels(draw):
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    extra = draw(st.integers(1, 3))
    c = math.prod(widths)
    return tuple(widths), c, c // widths[-1] * extra


@given(settings_and_channels())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_version_2_has_exactly_one_path_from_every_input_to_every_output(drawn):
    widths, c, k = drawn
    module = Interleaved(version=2, widths=widths).build(ConvSpec(c, k, 1))
    for conv in convolutions(module):
        nn.init.ones_(conv.weight)
    paths = module(torch.eye(c)[:, :, None, None])  # with ones as weights an output counts paths
    assert torch.equal(paths, torch.ones(c, k, 1, 1))


def test_version_1_has_exactly_one_path_too():
    module = Interleaved(secondary=4).build(ConvSpec(24, 24, 1))
    for conv in convolutions(module):
        nn.init.ones_(conv.weight)
    assert torch.equal(module(torch.eye(24)[:, :, None, None]), torch.ones(24, 24, 1, 1))


@pytest.mark.parametrize(("partitions", "width"), [(24, 2), (4, 32), (16, 16), (2, 4), (2, 1), (1, 8)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_version_1_has_the_papers_parameters_and_is_cheaper_where_the_paper_says(partitions, width, kernel):
    g, s = partitions * width, kernel * kernel
    spec = ConvSpec(g, g, kernel, padding=kernel // 2)
    parameters = Interleaved(primary=partitions).cost(spec, (8, 8)).parameters
    assert parameters * partitions * width == g * g * (s * width + partitions)  # G^2 (S/L + 1/M)
    cheaper = parameters < Dense().cost(spec, (8, 8)).parameters
    assert cheaper == (partitions < (partitions - 1) * width * s)  # L / (L - 1) < M S, equation 8


def test_version_2_has_the_papers_parameters():
    # C (S K_1 + (L - 1) K): channel-wise 3x3 and three factors of 8
    cost = Interleaved(version=2, widths=(1, 8, 8, 8)).cost(ConvSpec(512, 512, 3, padding=1), (4, 4))
    assert cost.parameters == 512 * (9 + 3 * 8)


@pytest.mark.parametrize("strategy", [Interleaved(), Interleaved(version=2), Interleaved(version=3)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_a_bias_of_the_spec_stands_at_the_end_alone(strategy, bias):
    *before, last = convolutions(strategy.build(ConvSpec(16, 16, 3, bias=bias)))
    assert all(conv.bias is None for conv in before)
    assert (last.bias is not None) == bias


def test_version_2_chooses_the_cheapest_factors():
    assert Interleaved(version=2).factor_widths(ConvSpec(64, 128, 3)) == [(1, 1), (8, 8), (8, 16)]
    assert Interleaved(version=2).factor_widths(ConvSpec(48, 48, 3)) == [(1, 1), (6, 6), (8, 8)]
    assert Interleaved(version=2).factor_widths(ConvSpec(7, 5, 3)) == [(1, 1), (7, 5)]


def test_version_3_equals_pytorchcvs_unit_with_the_same_weights():
    from pytorchcv.models.igcv3 import InvResUnit

    theirs = InvResUnit(16, 24, stride=2, expansion=True, activation="relu6").double().eval()
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
    ours = LowRankUnit(ConvSpec(16, 24, 3, 2, padding=1), 96, 2).double().eval()
    for mine, name in (
        ("expand", "conv1.conv"),
        ("norm1", "conv1.bn"),
        ("depthwise", "conv2.conv"),
        ("norm2", "conv2.bn"),
        ("project", "conv3.conv"),
    ):
        ours.get_submodule(mine).load_state_dict(theirs.get_submodule(name).state_dict())
    x = torch.randn(2, 16, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(theirs.conv3.bn(ours(x)), theirs(x))


@pytest.mark.parametrize(
    ("strategy", "spec", "message"),
    [
        (Interleaved(primary=5), (12, 12), "primary=5: must be a divisor of in_channels=12"),
        (Interleaved(), (3, 16), "secondary=2: .* use one of 16"),
        (Interleaved(version=2, widths=(1, 4, 4)), (32, 32), "product is in_channels=32; one path for each"),
        (Interleaved(version=2, widths=(1, 4, 8)), (32, 6), "product of all but the last, 4, divides out"),
        (Interleaved(version=3), (7, 8), "groups=2: must be a divisor of in_channels=7"),
    ],
)
def test_channels_that_cannot_be_interleaved_are_refused_by_name(strategy, spec, message):
    with pytest.raises(StrategyError, match=message):
        strategy.build(ConvSpec(*spec, 3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 4}, "version=4: must be 1, 2 or 3"),
        ({"version": 2, "primary": 4}, "primary=4: must be left out in version 2"),
        ({"widths": (2, 2)}, r"widths=\(2, 2\): must be left out in version 1"),
        ({"version": 2, "widths": (8,)}, "two factors or more"),
        ({"version": 3, "expansion": 0}, "expansion=0"),
        ({"primary": 2, "secondary": 2}, "left out when primary is given"),
    ],
)
def test_wrong_parameters_are_refused_at_once(fields, message):
    with pytest.raises(StrategyError, match=message):
        Interleaved(**fields)
