"""Shuffled convolution against torch's shuffle and pytorchcv's ShuffleNet unit."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.spec import ConvSpec
from regroup.strategies.grouped import Grouped
from regroup.strategies.shuffled import Shuffled, ShuffleUnit


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_conv_is_a_grouped_convolution_then_torchs_channel_shuffle(groups):
    module = Shuffled(groups=groups).build(ConvSpec(12, 24, 3, padding=1, bias=True))
    x = torch.randn(2, 12, 7, 5)
    y = F.conv2d(x, module[0].weight, module[0].bias, padding=1, groups=groups)
    assert torch.equal(module(x), nn.ChannelShuffle(groups)(y))


@pytest.mark.parametrize("groups", [2, 3, 4, 8])
def test_two_in_a_row_connect_everything_and_two_grouped_ones_do_not(groups):
    spec = ConvSpec(groups * groups, groups * groups, 1)
    shuffled, grouped = Shuffled(groups=groups).reach(spec), Grouped(groups=groups).reach(spec)
    assert reach.fill(reach.through(shuffled, shuffled)) == 1
    assert reach.fill(reach.through(grouped, grouped)) == 1 / groups


def test_the_unit_equals_that_of_pytorchcv_with_the_same_weights():
    from pytorchcv.models.shufflenet import ShuffleUnit as Theirs

    theirs = Theirs(24, 24, groups=3, downsample=False, ignore_group=False).double().eval()
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
    ours = ShuffleUnit(ConvSpec(24, 24, 3, padding=1), 6, 3).double().eval()
    for mine, name in (
        ("reduce", "compress_conv1"),
        ("norm1", "compress_bn1"),
        ("depthwise", "dw_conv2"),
        ("norm2", "dw_bn2"),
        ("expand", "expand_conv3"),
    ):
        ours.get_submodule(mine).load_state_dict(theirs.get_submodule(name).state_dict())
    x = torch.randn(2, 24, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(F.relu(x + theirs.expand_bn3(ours(x))), theirs(x))


def test_the_unit_costs_what_the_paper_says():
    # arXiv:1707.01083 section 3.2: hw(2cm/g + 9m) for c channels, m inside, g groups
    c, m, g, side = 240, 60, 3, 28
    cost = Shuffled(groups=g, form="unit").cost(ConvSpec(c, c, 3, padding=1), (side, side))
    assert cost.macs == side * side * (2 * c * m // g + 9 * m)


def test_what_cannot_be_shuffled_is_refused_by_name():
    with pytest.raises(StrategyError, match="groups=5: must be a divisor of in_channels=16 and"):
        Shuffled(groups=5).build(ConvSpec(16, 32, 3))
    with pytest.raises(StrategyError, match="ratio=4: must be such that out_channels=24 / ratio"):
        Shuffled(groups=4, form="unit").check(ConvSpec(16, 24, 3))
    with pytest.raises(StrategyError, match="form='block'"):
        Shuffled(form="block")
    with pytest.raises(StrategyError, match="groups=0"):
        Shuffled(groups=0)
