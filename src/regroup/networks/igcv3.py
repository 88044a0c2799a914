"""IGCV3 (arXiv:1806.00178): MobileNet v2's block with 1x1 convolutions in two groups, twice as deep.

As in the official code: no activation after the first 1x1, and no permutation after the second but in
`igcv3_g2g4_100`, where it has four groups and a block without shortcut permutes its output. Widths are
rounded as in pytorchcv, whose weights load; the official code multiplies some of them twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvNorm, Stage
from regroup.networks.layouts import igcv3 as layouts
from regroup.ops.order import ChannelShuffle

STAGES = (
    ((1, 16, 1, 1),),
    ((6, 24, 4, 2),),
    ((6, 32, 6, 2),),
    ((6, 64, 8, 2), (6, 96, 6, 1)),
    ((6, 160, 6, 2), (6, 320, 1, 1)),
)
"""Rows of each stage: expansion, channels, blocks, stride of the first block."""


@dataclass(frozen=True, kw_only=True)
class IGCV3Config(Config):
    """Numbers of an IGCV3 network.

    Args:
        width: multiplies all channels, rounded up to an even number; the last 1280 only if above 1.
        groups: of the 1x1 convolutions.
        last_groups: of the second of them, where they are others; a block without shortcut then also
            permutes its output.
    """

    width: float = 1.0
    groups: int = 2
    last_groups: int | None = None


class LowRankBlock(nn.Module):
    """1x1 up in groups, shuffle, depthwise 3x3, 1x1 down in groups, and a shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand: int,
        stride: int,
        groups: int,
        last_groups: int | None,
    ) -> None:
        super().__init__()
        middle = expand * in_channels
        self.conv1 = ConvNorm(in_channels, middle, groups=groups, act="none")
        self.shuffle = ChannelShuffle(groups)
        self.conv2 = ConvNorm(middle, middle, 3, stride, groups=middle, act="relu6")
        self.conv3 = ConvNorm(middle, out_channels, groups=last_groups or groups, act="none")
        self.residual = stride == 1 and in_channels == out_channels
        self.permute = nn.Identity()
        if last_groups and not self.residual:
            self.permute = ChannelShuffle(out_channels // last_groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.shuffle(self.conv1(x))))
        return x + y if self.residual else self.permute(y)


class IGCV3(Backbone):
    """Stem, stages of low-rank blocks, and a wide 1x1 convolution before the pooling."""

    def __init__(self, config: IGCV3Config) -> None:
        def even(width: int) -> int:
            scaled = int(width * config.width)
            return scaled + scaled % 2

        channels = even(32)
        stem = ConvNorm(config.in_chans, channels, 3, 2, act="relu6")
        widths, stages, reductions = [channels], [], [2]
        for rows in STAGES:
            blocks = []
            for expand, width, depth, stride in rows:
                for i in range(depth):
                    step = stride if i == 0 else 1
                    groups = config.groups, config.last_groups
                    blocks.append(LowRankBlock(channels, even(width), expand, step, *groups))
                    channels = even(width)
            stages.append(Stage(blocks))
            widths.append(channels)
            reductions.append(reductions[-1] * rows[0][3])
        last = even(1280) if config.width > 1 else 1280
        tail = ConvNorm(channels, last, act="relu6")
        super().__init__(config, stem, stages, widths, reductions, tail=tail, num_features=last)


family = Family(IGCV3, paper="arXiv:1806.00178", source="homles11/IGCV3", layouts=layouts.IGCV3)

for name, width, counts, errors in (
    ("igcv3_100", 1.0, (3_491_688, 313.0), (27.8, 9.5, "R")),
    ("igcv3_075", 0.75, (2_638_084, 189.9), (31.05, 11.40, "L")),
    ("igcv3_050", 0.5, (1_985_528, 96.9), (39.75, 17.32, "L")),
    ("igcv3_025", 0.25, (1_534_020, 34.0), (53.70, 28.71, "L")),
):
    family.add(
        name,
        IGCV3Config(width=width),
        Claims(*counts, counted="L", top1_error=errors[0], top5_error=errors[1], stated=errors[2]),
    )

family.add("igcv3_g2g4_100", IGCV3Config(last_groups=4), Claims(3_063_304, 255.8), layouts=())
