"""Octave convolution against its formulas, the official stride rules and pytorchcv's implementation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from regroup.errors import SpecError, StrategyError
from regroup.ops.counting import count
from regroup.ops.reach import measured_reach
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy, sample_size
from regroup.strategies.octave import Octave, OctaveConv, OctaveNormAct, merge, octaves, split

ODD_SPECS = [
    ConvSpec(8, 12, 3, padding=1),
    ConvSpec(8, 12, 3, stride=2, padding=1, bias=True),
    ConvSpec(8, 8, (3, 5), stride=(1, 2), padding=(1, 2)),
    ConvSpec(8, 4, 3, padding=2, dilation=2, bias=True),
    ConvSpec(6, 10, 1),
    ConvSpec(6, 10, 1, stride=2),
    ConvSpec(3, 8, 7, stride=2, padding=3),
]
SETTINGS = [
    Octave(0.25),
    Octave(0.5, norm=True, act="relu"),
    Octave(alpha_in=0, alpha_out=0.5),
    Octave(alpha_in=0.5, alpha_out=0),
    Octave(0.75),
]


def pair_of(channels, alpha, side, dtype=torch.float64):
    high, low = octaves(channels, alpha)
    x_low = torch.randn(2, low, -(-side // 2), -(-side // 2), dtype=dtype) if low else None
    return torch.randn(2, high, side, side, dtype=dtype), x_low


@pytest.mark.parametrize("stride", [1, 2])
def test_the_four_paths_are_the_papers_formula(stride):
    spec = ConvSpec(8, 12, 3, stride, padding=1)
    octave = OctaveConv(spec, 0.25, 0.5).double()
    high, low = pair_of(8, 0.25, 16)
    y_high, y_low = octave((high, low))

    def f(x, path):
        return F.conv2d(x, path.weight, padding=1)

    if stride == 1:
        expected_high = f(high, octave.h2h) + F.interpolate(f(low, octave.l2h), scale_factor=2)
        expected_low = f(low, octave.l2l) + f(F.avg_pool2d(high, 2), octave.h2l)
    else:  # the official rule: pool by the stride, convolve with stride 1; low is already as coarse as Y_high
        expected_high = f(F.avg_pool2d(high, 2), octave.h2h) + f(low, octave.l2h)
        expected_low = f(F.avg_pool2d(low, 2), octave.l2l) + f(F.avg_pool2d(high, 4), octave.h2l)
    torch.testing.assert_close(y_high, expected_high)
    torch.testing.assert_close(y_low, expected_low)


def test_the_first_of_a_network_has_no_low_input_and_the_last_no_low_output():
    spec = ConvSpec(8, 8, 3, padding=1)
    first, last = OctaveConv(spec, 0, 0.5), OctaveConv(spec, 0.5, 0)
    assert [name for name, _ in first.named_children()] == ["h2h", "h2l"]
    assert [name for name, _ in last.named_children()] == ["h2h", "l2h"]
    high, low = last(first((torch.randn(1, 8, 6, 6), None)))
    assert high.shape == (1, 8, 6, 6)
    assert low is None


@pytest.mark.parametrize("alpha", [0.125, 0.25, 0.5, 0.75])
def test_parameters_do_not_depend_on_alpha_and_macs_follow_the_published_ratio(alpha):
    spec = ConvSpec(64, 64, 3, padding=1)
    dense, octave = spec.cost((32, 32)), Octave(alpha).cost(spec, (32, 32))
    assert octave.parameters == dense.parameters
    assert octave.macs == dense.macs * (1 - 3 / 4 * alpha * (2 - alpha))


def test_alpha_0_is_the_dense_convolution_bit_for_bit():
    spec = ConvSpec(6, 10, 3, padding=1, bias=True)
    module = Octave(0).build(spec)
    dense = nn.Conv2d(6, 10, 3, padding=1)
    dense.load_state_dict(module.convolution.h2h.state_dict())
    x = torch.randn(2, 6, 9, 7)
    assert torch.equal(module(x), dense(x))


def test_a_depthwise_octave_convolution_keeps_each_channel_in_its_octave():
    spec = ConvSpec(8, 8, 3, padding=1, bias=True)
    octave = OctaveConv(spec, 0.25, 0.25, groups=8).double()
    assert [name for name, _ in octave.named_children()] == ["h2h", "l2l"]
    high, low = pair_of(8, 0.25, 10)
    y_high, y_low = octave((high, low))
    torch.testing.assert_close(
        y_high, F.conv2d(high, octave.h2h.weight, octave.h2h.bias, padding=1, groups=6)
    )
    torch.testing.assert_close(y_low, F.conv2d(low, octave.l2l.weight, octave.l2l.bias, padding=1, groups=2))
    assert torch.equal(Octave(0.25, groups=8).reach(spec), torch.eye(8, dtype=torch.bool))


def test_every_output_has_its_bias_once():
    for alpha_in, alpha_out, groups in ((0.5, 0.5, 1), (0, 0.5, 1), (0.5, 0, 1), (0.5, 0.5, 8)):
        octave = OctaveConv(ConvSpec(8, 8, bias=True, padding=1), alpha_in, alpha_out, groups)
        for parameter in octave.parameters():
            torch.nn.init.constant_(parameter, 1.0)
        zeros = split(torch.zeros(1, 8, 4, 4), int(8 * alpha_in))
        assert all((y == 1).all() for y in octave(zeros) if y is not None)


@pytest.mark.parametrize("spec", ODD_SPECS, ids=str)
@pytest.mark.parametrize("octave", SETTINGS, ids=str)
def test_cost_reach_shape_and_reference_agree_with_the_module(octave, spec):
    module = octave.build(spec).double()
    for size in ((16, 16), (7, 9), (5, 4), (2, 2), (1, 1)):
        x = torch.randn(2, spec.in_channels, *size, dtype=torch.float64)
        assert tuple(module.eval()(x).shape[2:]) == spec.output_size(size)
        torch.testing.assert_close(module(x), octave.reference(module, x))
        assert count(octave.build(spec), size, spec.in_channels) == octave.cost(spec, size)
    module.train()(torch.randn(2, spec.in_channels, 8, 8, dtype=torch.float64))
    measured = measured_reach(module, spec.in_channels, sample_size(spec))
    assert torch.equal(measured, octave.reach(spec))


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.sampled_from([0.0, 0.25, 0.5]), st.sampled_from([0.0, 0.25, 0.5])),
    st.sampled_from([1, 2, 4]),
    st.tuples(st.integers(1, 11), st.integers(1, 11)),
    st.sampled_from([1, 2]),
)
def test_any_grouped_octave_convolution_equals_its_definition(widths, alphas, groups, size, stride):
    spec = ConvSpec(16 * widths[0], 16 * widths[1], 3, stride, padding=1)
    octave = Octave(alpha_in=alphas[0], alpha_out=alphas[1], groups=groups)
    if 1 < groups == spec.in_channels:
        return
    module = octave.build(spec).double()
    x = torch.randn(1, spec.in_channels, *size, dtype=torch.float64)
    torch.testing.assert_close(module(x), octave.reference(module, x))
    assert count(octave.build(spec), size, spec.in_channels) == octave.cost(spec, size)


def test_split_averages_and_merge_copies():
    x = torch.arange(2 * 3 * 3.0).view(1, 2, 3, 3)
    high, low = split(x, x.shape[1] // 2)
    assert low.flatten().tolist() == [11.0, 12.5, 15.5, 17.0]
    merged = merge((high, low))
    assert torch.equal(merged[:, 0], x[:, 0])
    assert merged[0, 1].tolist() == [[11.0, 11.0, 12.5], [11.0, 11.0, 12.5], [15.5, 15.5, 17.0]]


def test_norm_and_activation_work_on_each_octave_by_itself():
    high, low = torch.randn(4, 6, 8, 8), 100 + torch.randn(4, 2, 4, 4)
    y_high, y_low = OctaveNormAct(8, 0.25, act="none")((high, low))
    for y in (y_high, y_low):
        assert y.mean((0, 2, 3)).abs().max() < 1e-4


@pytest.mark.parametrize(
    "mode, alphas, stride",
    [
        ("first", (0, 0.5), 1),
        ("first", (0, 0.5), 2),
        ("norm", (0.5, 0.5), 1),
        ("norm", (0.5, 0.5), 2),
        ("last", (0.5, 0), 2),  # with stride 1 theirs does not upsample, and fails
    ],
)
def test_equal_to_pytorchcv_with_its_fused_weight(mode, alphas, stride):
    from pytorchcv.models.octresnet import OctConv

    theirs = OctConv(8, 12, 3, stride, 1, oct_alpha=0.5, oct_mode=mode).double()
    ours = OctaveConv(ConvSpec(8, 12, 3, stride, padding=1), *alphas).double()
    in_high, out_high = octaves(8, alphas[0])[0], octaves(12, alphas[1])[0]
    weights = {
        "h2h.weight": theirs.weight[:out_high, :in_high],
        "h2l.weight": theirs.weight[out_high:, :in_high],
        "l2h.weight": theirs.weight[:out_high, in_high:],
        "l2l.weight": theirs.weight[out_high:, in_high:],
    }
    ours.load_state_dict({k: v for k, v in weights.items() if v.numel()})
    pair = pair_of(8, alphas[0], 16)
    for y, expected in zip(ours(pair), theirs(*pair), strict=True):
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(
    "spec, says",
    [
        (ConvSpec(8, 8, 3, padding=0), r"padding=\(0, 0\): must be \(1, 1\)"),
        (ConvSpec(8, 8, 4, padding=1), r"kernel_size=\(4, 4\): must be odd"),
        (ConvSpec(8, 8, 3, stride=3, padding=1), r"stride=\(3, 3\): must be 1 or 2"),
    ],
)
def test_what_it_cannot_honour_is_said(spec, says):
    with pytest.raises((SpecError, StrategyError), match=says):
        Octave().build(spec)
    assert Octave().why_not(spec)


def test_wrong_parameters_are_said():
    with pytest.raises(StrategyError, match="alpha_out=1"):
        Octave(alpha_out=1.0)
    with pytest.raises(StrategyError, match="act='tanh'"):
        Octave(act="tanh")
    with pytest.raises(StrategyError, match="groups=4: must be a divisor of the 6 -> 6 channels"):
        Octave(0.25, groups=4).check(ConvSpec(8, 8, 3, padding=1))
    with pytest.raises(StrategyError, match=r"alpha_out=0\.5: must be alpha_in=0\.25"):
        Octave(alpha_in=0.25, alpha_out=0.5, groups=8).check(ConvSpec(8, 8, 3, padding=1))


@pytest.mark.parametrize("octave", [*SETTINGS, *Octave.variants()], ids=str)
def test_a_label_is_read_back(octave):
    assert parse_strategy(octave.label) == octave
