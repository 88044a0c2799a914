"""G-ResNeXt (arXiv:1908.05867): a ResNeXt that learns how many groups each 3x3 convolution has, and which.

The authors published no code; d-li14/dgconv.pytorch is followed. The networks are as they learn, with dense
masked kernels: `regroup.deploy` turns them into ResNeXts of unequal layers when the gates have settled.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import ConvNorm
from regroup.networks.layouts import resnet as layouts
from regroup.networks.resnet import shortcut
from regroup.networks.skeletons import ResNetLike
from regroup.spec import ConvSpec
from regroup.strategies.groupable import GroupableConv


@dataclass(frozen=True, kw_only=True)
class GroupableResNeXtConfig(Config):
    """Numbers of a G-ResNeXt.

    Args:
        depths: blocks of each stage.
        middle: channels of the 3x3 convolutions of each stage; even.
        budget: the number of groups whose connections are allowed, see `groupable`.
    """

    depths: tuple[int, ...]
    middle: tuple[int, ...] = (128, 256, 512, 1024)
    budget: int = 32


class GroupableBottleneck(nn.Module):
    """1x1 down, 3x3 in learned groups, 1x1 up, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, middle: int, stride: int, budget: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, middle)
        self.conv2 = GroupableConv(ConvSpec(middle, middle, 3, stride, 1), budget)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv3 = ConvNorm(middle, out_channels, act="none")
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm2(self.conv2(self.conv1(x))))
        return self.act(self.conv3(y) + self.shortcut(x))


class GroupableResNeXt(ResNetLike):
    """A ResNet of groupable bottlenecks."""

    def __init__(self, config: GroupableResNeXtConfig) -> None:
        outs = [256 * 2**stage for stage in range(len(config.middle))]

        def block(in_channels: int, stage: int, index: int, stride: int) -> nn.Module:
            return GroupableBottleneck(in_channels, outs[stage], config.middle[stage], stride, config.budget)

        super().__init__(config, 64, outs, block)


family = Family(
    GroupableResNeXt,
    paper="arXiv:1908.05867",
    source="d-li14/dgconv.pytorch",
    layouts=layouts.G_RESNEXT,
)

family.add(
    "g_resnext50",
    GroupableResNeXtConfig(depths=(3, 4, 6, 3)),
    Claims(68_883_377, 11398.0, top1_error=21.408, top5_error=5.894),
)
family.add(
    "g_resnext101",
    GroupableResNeXtConfig(depths=(3, 4, 23, 3), middle=(256, 512, 1024, 2048)),
    Claims(419_627_627, 75546.2),
)
