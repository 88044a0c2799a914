"""Inception against torchvision's module and GoogLeNet's table."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.googlenet import Inception as Theirs

from regroup.errors import StrategyError
from regroup.spec import ConvSpec
from regroup.strategies.inception import Inception

TABLE = {  # arXiv:1409.4842, table 1
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def conv_relu(in_channels, out_channels, **options):
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, **options), nn.ReLU())


@pytest.mark.parametrize("module", TABLE)
def test_the_papers_widths_are_met_exactly(module):
    widths = TABLE[module]
    outputs = widths[0] + widths[2] + widths[4] + widths[5]
    chains = Inception(widths).chains(ConvSpec(100, outputs, 3, padding=1))
    assert [[s.out_channels for s in chain] for chain in chains] == [
        [widths[0]],
        [widths[1], widths[2]],
        [widths[3], widths[4]],
        [widths[5]],
    ]
    assert [chain[-1].kernel_size for chain in chains] == [(1, 1), (3, 3), (5, 5), (1, 1)]


def test_module_3a_has_its_parameters():
    # 192 -> 256 channels with biases: 12352 + 18528 + 110720 + 3088 + 12832 + 6176, from the paper's widths
    assert Inception().cost(ConvSpec(192, 256, 3, padding=1, bias=True), (28, 28)).parameters == 163_696


def test_after_a_relu_it_equals_torchvisions_module_with_the_same_weights():
    theirs = Theirs(20, 6, 8, 12, 2, 4, 2, conv_block=conv_relu).double()
    ours = Inception((6, 8, 12, 2, 4, 2)).build(ConvSpec(20, 24, 3, padding=1, bias=True)).double()
    point, medium, large, pool = ours
    point.load_state_dict(theirs.branch1[0].state_dict())
    medium[0].load_state_dict(theirs.branch2[0][0].state_dict())
    medium[2].load_state_dict(theirs.branch2[1][0].state_dict())
    large[0].load_state_dict(theirs.branch3[0][0].state_dict())
    # torchvision has a 3x3 where the paper has a 5x5: put it into the middle
    large[2].weight.data = F.pad(theirs.branch3[1][0].weight.data, (1, 1, 1, 1))
    large[2].bias.data = theirs.branch3[1][0].bias.data
    pool[2].load_state_dict(theirs.branch4[1][0].state_dict())
    x = torch.rand(2, 20, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(F.relu(ours(x)), theirs(x))


def test_outside_the_image_the_pool_sees_zeros():
    pad, pool, _ = Inception().build(ConvSpec(1, 8, 3, padding=1))[3]
    assert pool(pad(torch.full((1, 1, 1, 1), -5.0))).item() == 0


@pytest.mark.parametrize("outputs", range(4, 40))
def test_small_widths_leave_something_for_every_branch(outputs):
    chains = Inception().chains(ConvSpec(3, outputs, 3, padding=1))
    assert sum(chain[-1].out_channels for chain in chains) == outputs


def test_what_cannot_be_done_is_refused_by_name():
    with pytest.raises(StrategyError, match="out_channels=3: must be enough for four branches"):
        Inception().build(ConvSpec(8, 3, 3))
    with pytest.raises(StrategyError, match=r"kernel_size=\(4, 4\): must be odd"):
        Inception().build(ConvSpec(8, 16, 4))
    with pytest.raises(StrategyError, match="six ints of at least 1"):
        Inception((1, 2, 3))
