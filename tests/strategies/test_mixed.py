"""MixConv against timm's, the splits of the paper, and the common centre of its kernels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from regroup.errors import StrategyError
from regroup.spec import ConvSpec
from regroup.strategies.mixed import Mixed, MixedConv, split_channels


@pytest.mark.parametrize("channels", [12, 13, 32])
@pytest.mark.parametrize("kernels", [(3,), (3, 5), (3, 5, 7), (3, 5, 7, 9)])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_mixed_depthwise_equals_timms_with_the_same_weights(channels, kernels, stride, dilation):
    from timm.layers.mixed_conv2d import MixedConv2d

    theirs = MixedConv2d(channels, channels, list(kernels), stride, "", dilation, depthwise=True).double()
    spec = ConvSpec(channels, channels, 3, stride, dilation, dilation)
    ours = MixedConv(spec, kernels).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, channels, 11, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("channels", "parts", "how", "sizes"),
    [
        (32, 4, "exponential", [16, 8, 4, 4]),  # the paper's example, section 3.2
        (10, 3, "exponential", [6, 2, 2]),
        (32, 4, "equal", [8, 8, 8, 8]),
        (200, 5, "equal", [40] * 5),
        (80, 3, "equal", [28, 26, 26]),
        (8, 1, "exponential", [8]),
    ],
)
def test_splits(channels, parts, how, sizes):
    assert split_channels(channels, parts, how) == sizes


@given(st.integers(1, 300), st.integers(1, 9), st.sampled_from(["equal", "exponential"]))
def test_a_split_uses_every_channel_once_or_says_how_many_parts_would_do(channels, parts, how):
    try:
        sizes = split_channels(channels, parts, how)
    except StrategyError as error:
        most = int(error.allowed.split()[2])
        assert most < parts
        assert len(split_channels(channels, most, how)) == most
    else:
        assert sum(sizes) == channels
        assert len(sizes) == parts
        assert min(sizes) >= 1
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(6, 6, 3, padding=1),
        ConvSpec(6, 6, 5, stride=2, padding=0),
        ConvSpec(6, 6, 1, stride=3, padding=2),
        ConvSpec(6, 6, (3, 7), padding=(-1, 2), dilation=(2, 1)),
    ],
    ids=str,
)
def test_all_kernels_share_the_centre_of_the_specs_kernel(spec):
    def centre(layer):
        (convolution,) = (m for m in layer.modules() if isinstance(m, nn.Conv2d))
        nn.init.zeros_(convolution.weight)
        rows, columns = convolution.kernel_size
        convolution.weight.data[:, :, rows // 2, columns // 2] = 1
        return layer

    mixed = MixedConv(spec, (1, 3, 5))
    for part in mixed:
        centre(part)
    (alone,) = MixedConv(spec, (3,))
    x = torch.randn(1, 6, 16, 16)
    assert torch.equal(mixed(x), centre(alone)(x))


def test_the_pointwise_part_can_be_left_out_where_the_channels_stay():
    strategy = Mixed(pointwise=False)
    same, changing = ConvSpec(9, 9, 3, padding=1, bias=True), ConvSpec(9, 12, 3, padding=1, bias=True)
    assert isinstance(strategy.build(same), MixedConv)
    assert strategy.cost(same, (8, 8)).parameters == 3 * (9 + 25 + 49) + 9
    assert torch.equal(strategy.reach(same), torch.eye(9, dtype=torch.bool))
    assert strategy.cost(changing, (8, 8)).parameters == 3 * (9 + 25 + 49) + 9 * 12 + 12
    assert strategy.reach(changing).all()


def test_what_cannot_be_mixed_is_refused_by_name():
    with pytest.raises(StrategyError, match=r"kernels=\(3, 5, 7\): must be centred on the \(2, 2\) kernel"):
        Mixed().build(ConvSpec(8, 8, 2, stride=2))
    with pytest.raises(StrategyError, match="at most 2 for 2 channels; use fewer kernels"):
        Mixed().build(ConvSpec(2, 8, 3))
    with pytest.raises(StrategyError, match="split='linear'"):
        Mixed(split="linear")
    with pytest.raises(StrategyError, match="kernels="):
        Mixed(kernels=())
