"""VGG (arXiv:1409.1556): nothing but dense 3x3 convolutions; the costly baseline."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvAct, ConvNorm, Stage
from regroup.networks.layouts import vgg as layouts
from regroup.networks.skeletons import check_depths


@dataclass(frozen=True, kw_only=True)
class VGGConfig(Config):
    """Numbers of a VGG.

    Args:
        depths: convolutions between the poolings.
        widths: their channels.
        norm: batch norm after each convolution.
        hidden: width of the two hidden layers.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    norm: bool = False
    hidden: int = 4096
    drop_rate: float = 0.5


class ConvBiasNorm(ConvNorm):
    """The convolutions of VGG keep their bias before batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.conv.bias = nn.Parameter(self.conv.weight.new_zeros(out_channels))


class VGG(Backbone):
    """Groups of 3x3 convolutions with a pooling after each, two hidden layers."""

    min_size = 32

    def __init__(self, config: VGGConfig) -> None:
        check_depths(config.depths, len(config.widths))
        block = ConvBiasNorm if config.norm else ConvAct
        channels, parts = config.in_chans, []
        for depth, width in zip(config.depths, config.widths, strict=True):
            parts.append([block(channels if i == 0 else width, width, 3) for i in range(depth)])
            channels = width
        stages = [Stage(part, nn.MaxPool2d(2)) for part in (*parts[1:], [])]
        hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 49, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.drop_rate),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
        )
        super().__init__(
            config,
            nn.Sequential(*parts[0]),
            stages,
            (*config.widths, channels),
            [2**i for i in range(len(stages) + 1)],
            hidden=(hidden, config.hidden),
            pooled=7,
        )


family = Family(VGG, paper="arXiv:1409.1556", source="pytorch/vision", layouts=layouts.VGG)

VGG16 = (2, 2, 3, 3, 3)
family.add(
    "vgg16",
    VGGConfig(depths=VGG16),
    Claims(138_357_544, 15470.3, (224, 224), "L", 28.408, 9.618, "L"),
    pretrained="torchvision:VGG16_Weights.IMAGENET1K_V1",
)
family.add(
    "vgg16_bn",
    VGGConfig(depths=VGG16, norm=True),
    Claims(138_365_992, 15470.3, (224, 224), "L", 26.64, 8.484, "L"),
    pretrained="torchvision:VGG16_BN_Weights.IMAGENET1K_V1",
)
