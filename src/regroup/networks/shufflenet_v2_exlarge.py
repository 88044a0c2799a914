"""ShuffleNet V2 ExLarge (megvii-model/ShuffleNet-Series): still deeper and wider than Large.

A unit widens inside by a grouped 3x3 and a depthwise 3x3 convolution; the half that passes is not convolved
again but in the first unit of a stage, which takes all channels both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import AuxiliaryHead, ConvNorm, SqueezeExcite, Stage
from regroup.networks.layouts import shufflenet as layouts
from regroup.networks.skeletons import Supervised, check_depths
from regroup.ops.order import ChannelShuffle


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV2ExLargeConfig(Config):
    """Numbers of a ShuffleNet V2 ExLarge.

    Args:
        depths: units of each stage.
        widths: channels of each stage.
        groups: of the 3x3 convolutions.
        stem: channels of its three convolutions.
        hidden: channels of the auxiliary heads.
        aux: auxiliary heads after all stages but the last; in training the model then gives their logits,
            too, those of the last head first.
    """

    depths: tuple[int, ...] = (8, 16, 36, 10)
    widths: tuple[int, ...] = (320, 640, 1280, 2560)
    groups: int = 16
    stem: tuple[int, int, int] = (64, 128, 256)
    hidden: tuple[int, ...] = (256, 512, 1024)
    aux: bool = False
    drop_rate: float = 0.2


class Unit(nn.Module):
    """1x1 up, 3x3 in groups, 3x3 depthwise, 1x1 down and a gate, around which a shortcut leads.

    Args:
        in_channels: of the branch: half the channels, or all in the first unit of a stage.
        width: channels of the output, and inside.
        stride: of the grouped convolution.
        first: the first of its stage: no shortcut, but a 3x3 convolution on what passes.
        groups: of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, width: int, stride: int, first: bool, groups: int) -> None:
        super().__init__()
        half = width // 2
        self.split = nn.Identity() if first else ChannelShuffle(half)  # even channels, then odd ones
        self.passing = ConvNorm(in_channels, half, 3, stride) if first else nn.Identity()
        self.branch = nn.Sequential(
            ConvNorm(in_channels, width),
            ConvNorm(width, width, 3, stride, groups=groups),
            ConvNorm(width, width, 3, groups=width, act="none"),
            ConvNorm(width, half, act="none"),
        )
        self.squeeze = SqueezeExcite(half, half // 4)
        self.act = nn.ReLU()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            return torch.cat((self.passing(x), self.squeeze(self.branch(x))), 1)
        past, x = self.split(x).chunk(2, 1)
        return torch.cat((past, self.act(x + self.squeeze(self.branch(x)))), 1)


class ShuffleNetV2ExLarge(Supervised):
    """Three 3x3 convolutions, a pooling, four stages of units, each with a 1x1 convolution at its end."""

    def __init__(self, config: ShuffleNetV2ExLargeConfig) -> None:
        check_depths(config.depths, len(config.widths))
        stem, channels = nn.Sequential(), config.in_chans
        for index, width in enumerate(config.stem):
            stem.append(ConvNorm(channels, width, 3, 1 if index else 2))
            channels = width
        stages, heads = [], {}
        for s, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            units: list[nn.Module] = [Unit(channels, width, 2 if s else 1, True, config.groups)]
            units += [Unit(width // 2, width, 1, False, config.groups) for _ in range(depth - 1)]
            units.append(ConvNorm(width, width))
            stages.append(Stage(units, None if s else nn.MaxPool2d(3, stride=2, padding=1)))
            if config.aux and s < len(config.depths) - 1:
                heads[f"{s}_{depth}"] = AuxiliaryHead(width, config.hidden[s], config.num_classes, 1e-5)
            channels = width
        reductions = [2, *(4 * 2**s for s in range(len(stages)))]
        super().__init__(config, stem, stages, (config.stem[-1], *config.widths), reductions, heads=heads)


family = Family(
    ShuffleNetV2ExLarge,
    paper="arXiv:1807.11164",
    source="megvii-model/ShuffleNet-Series",
    layouts=layouts.V2_EXLARGE,
)

family.add(
    "shufflenet_v2_exlarge",
    ShuffleNetV2ExLargeConfig(),
    Claims(255_374_504, 46_174.8, top1_error=15.52, top5_error=2.9),
)
