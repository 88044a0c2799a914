"""ShuffleNet V2 Large (megvii-model/ShuffleNet-Series): deep, with shortcuts, gates and 3x3 in eight groups.

Its authors' largest network with published code. A unit takes the even channels past, the odd ones through.
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

EPS = 1e-9
"""Of the batch norms."""


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV2LargeConfig(Config):
    """Numbers of a ShuffleNet V2 Large.

    Args:
        depths: units of each stage.
        halves: channels of each half in a unit of each stage.
        groups: of the 3x3 convolutions.
        stem: channels of its three convolutions.
        head: channels of the last convolution.
        aux: auxiliary heads after all stages but the last; in training the model then gives their logits,
            too, those of the last head first.
    """

    depths: tuple[int, ...] = (10, 10, 23, 10)
    halves: tuple[int, ...] = (128, 256, 512, 1024)
    groups: int = 8
    stem: tuple[int, int, int] = (64, 64, 128)
    head: int = 1280
    aux: bool = False
    drop_rate: float = 0.2


class Unit(nn.Module):
    """One half through 1x1, 3x3 in groups, 1x1 and a gate, around which a shortcut leads; the other past it.

    Args:
        in_channels: of both halves.
        half: channels of each half of the output.
        stride: of the 3x3 convolutions.
        first: the first of its stage: no shortcut, but a 3x3 convolution on the half that passes.
        groups: of the 3x3 convolution that all units have.
    """

    def __init__(self, in_channels: int, half: int, stride: int, first: bool, groups: int) -> None:
        super().__init__()
        channels = in_channels // 2
        self.split = ChannelShuffle(channels)  # even channels, then odd ones
        self.passing = ConvNorm(channels, half, 3, stride, act="none", eps=EPS) if first else nn.Identity()
        self.branch = nn.Sequential(
            ConvNorm(channels, half, eps=EPS),
            ConvNorm(half, half, 3, stride, groups=groups, eps=EPS),
            ConvNorm(half, half, act="none", eps=EPS),
        )
        self.squeeze = SqueezeExcite(half, half)
        self.act = nn.ReLU()
        self.mix = ConvNorm(2 * half, 2 * half, eps=EPS) if stride == 2 else nn.Identity()
        self.shortcut = not first

    def forward(self, x: Tensor) -> Tensor:
        past, x = self.split(x).chunk(2, 1)
        y = self.squeeze(self.branch(x))
        y = x + y if self.shortcut else y
        return self.mix(self.act(torch.cat((self.passing(past), y), 1)))


class ShuffleNetV2Large(Supervised):
    """Three 3x3 convolutions, a pooling, four stages of units, a 3x3 convolution."""

    def __init__(self, config: ShuffleNetV2LargeConfig) -> None:
        check_depths(config.depths, len(config.halves))
        stem, channels = nn.Sequential(), config.in_chans
        for index, width in enumerate(config.stem):
            stem.append(ConvNorm(channels, width, 3, 1 if index else 2, eps=EPS))
            channels = width
        widths, stages, heads = [channels], [], {}
        for s, (depth, half) in enumerate(zip(config.depths, config.halves, strict=True)):
            units = []
            for i in range(depth):
                units.append(Unit(channels, half, 2 if s and not i else 1, i == 0, config.groups))
                channels = 2 * half
            stages.append(Stage(units, None if s else nn.MaxPool2d(3, stride=2, padding=1)))
            widths.append(channels)
            if config.aux and s < len(config.depths) - 1:
                heads[f"{s}_{depth - 1}"] = AuxiliaryHead(channels, channels, config.num_classes, EPS)
        tail = ConvNorm(channels, config.head, 3, eps=EPS)
        reductions = [2, *(4 * 2**s for s in range(len(stages)))]
        options = {"tail": tail, "num_features": config.head, "heads": heads}
        super().__init__(config, stem, stages, widths, reductions, **options)


family = Family(
    ShuffleNetV2Large,
    paper="arXiv:1807.11164",
    source="megvii-model/ShuffleNet-Series",
    layouts=layouts.V2_LARGE,
)

family.add(
    "shufflenet_v2_large",
    ShuffleNetV2LargeConfig(),
    Claims(125_120_936, 12_780.7, top1_error=18.56, top5_error=4.48),
)
