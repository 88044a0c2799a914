"""ResNet (arXiv:1512.03385): the dense baseline of the family, and with groups the body of ResNeXt.

The stride of a bottleneck lies on its 3x3 convolution, as in fb.resnet.torch and torchvision.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import ConvNorm
from regroup.networks.layouts import resnet as layouts
from regroup.networks.skeletons import ResNetLike


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(Config):
    """Numbers of a ResNet or ResNeXt.

    Args:
        depths: blocks of each stage.
        widths: base width of each stage; a bottleneck gives four times as many channels.
        bottleneck: 1x1, 3x3, 1x1 instead of two 3x3.
        groups: of the 3x3 convolution in a bottleneck.
        group_width: channels of one group at base width 64; grows with the width.
        small: for small images: a 3x3 stem with stride 1 and no pooling.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64
    small: bool = False


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, width, 3, stride)
        self.conv2 = ConvNorm(width, width, 3, act="none")
        self.shortcut = shortcut(in_channels, width, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.conv1(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1 down, 3x3 in groups, 1x1 up, and a shortcut. ResNeXt section 3.1, form (c)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        middle = width * config.group_width // 64 * config.groups
        out_channels = width * self.expansion
        self.conv1 = ConvNorm(in_channels, middle)
        self.conv2 = ConvNorm(middle, middle, 3, stride, groups=config.groups)
        self.conv3 = ConvNorm(middle, out_channels, act="none")
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the identity, or a 1x1 convolution where the shape changes (shortcut of type B)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return ConvNorm(in_channels, out_channels, stride=stride, act="none")


class ResNet(ResNetLike):
    """A ResNet or ResNeXt."""

    def __init__(self, config: ResNetConfig) -> None:
        kind = Bottleneck if config.bottleneck else BasicBlock

        def block(in_channels: int, stage: int, index: int, stride: int) -> nn.Module:
            return kind(in_channels, config.widths[stage], stride, config)

        outs = [width * kind.expansion for width in config.widths]
        super().__init__(config, config.widths[0], outs, block)


family = Family(
    ResNet, paper="arXiv:1512.03385", source="facebookarchive/fb.resnet.torch", layouts=layouts.RESNET
)

for name, depths, bottleneck, counts, errors in (
    ("resnet18", (2, 2, 2, 2), False, (11_689_512, 1814.1), (30.242, 10.922)),
    ("resnet34", (3, 4, 6, 3), False, (21_797_672, 3663.8), (26.686, 8.58)),
    ("resnet50", (3, 4, 6, 3), True, (25_557_032, 4089.2), (23.87, 7.138)),
    ("resnet101", (3, 4, 23, 3), True, (44_549_160, 7801.4), (22.626, 6.454)),
    ("resnet152", (3, 8, 36, 3), True, (60_192_808, 11513.6), (21.688, 5.954)),
):
    family.add(
        name,
        ResNetConfig(depths=depths, bottleneck=bottleneck),
        Claims(*counts, counted="L", top1_error=errors[0], top5_error=errors[1], stated="L"),
        pretrained=f"torchvision:{name.replace('resnet', 'ResNet')}_Weights.IMAGENET1K_V1",
    )

for name, depth, counts, error in (
    ("resnet20", 3, (272_474, 40.8), 8.75),
    ("resnet56", 9, (855_770, 125.7), 6.97),
    ("resnet110", 18, (1_730_714, 253.1), 6.43),
):
    family.add(
        name,
        ResNetConfig(depths=(depth,) * 3, widths=(16, 32, 64), bottleneck=False, small=True, num_classes=10),
        Claims(*counts, size=(32, 32), counted="L", top1_error=error, stated="S", data="CIFAR-10"),
    )

family.add(
    "resnet_small",
    ResNetConfig(depths=(1, 1, 1), widths=(16, 32, 64), bottleneck=False, small=True, num_classes=10),
    Claims(78_042, 12.5, size=(32, 32), counted="O"),
)
