"""Octave MobileNets v1 and v2 (arXiv:1904.05049, section 4.3), as in the official Gluon code.

Names say width and alpha: `oct_mobilenetv1_075_a0375` has three quarters of the channels. Two things to know:
a stride of 2 is an average pooling, also where alpha is 0; and the first block of v2 has a 1x1 convolution
that MobileNet v2 itself lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone
from regroup.networks.blocks import ConvNorm, Stage
from regroup.networks.layouts import octave as layouts
from regroup.networks.octave_blocks import OctaveConfig, OctaveConvNorm
from regroup.strategies.octave import Pair, merge


@dataclass(frozen=True, kw_only=True)
class OctaveMobileConfig(OctaveConfig):
    """Numbers of an octave MobileNet.

    Args:
        width: multiplies all channels.
    """

    width: float = 1.0


V2_STAGES = (
    ((1, 16, 1, 1),),
    ((6, 24, 2, 2),),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Expansion, channels, blocks and stride of each row of MobileNet v2."""


class Separable(nn.Module):
    """Depthwise 3x3 and 1x1, both on pairs."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, alphas: tuple[float, float]) -> None:
        super().__init__()
        kept = alphas[0], alphas[0]
        self.conv1 = OctaveConvNorm(in_channels, in_channels, 3, stride, alphas=kept, groups=in_channels)
        self.conv2 = OctaveConvNorm(in_channels, out_channels, alphas=alphas)

    def forward(self, x: Pair | Tensor) -> Pair:
        return self.conv2(self.conv1(x if isinstance(x, tuple) else (x, None)))


class Inverted(nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down, and a shortcut: only the wide middle has octaves."""

    def __init__(self, in_channels: int, out_channels: int, expand: int, stride: int, alpha: float) -> None:
        super().__init__()
        middle = expand * in_channels
        self.conv1 = OctaveConvNorm(in_channels, middle, alphas=(0, alpha), act="relu6")
        self.conv2 = OctaveConvNorm(
            middle, middle, 3, stride, alphas=(alpha, alpha), groups=middle, act="relu6"
        )
        self.conv3 = OctaveConvNorm(middle, out_channels, alphas=(alpha, 0), act="none")
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.conv3(self.conv2(self.conv1((x, None))))
        return x + y if self.residual else y


class OctaveMobileNetV1(Backbone):
    """13 separable convolutions: pairs flow between the first and the eleventh of them."""

    def __init__(self, config: OctaveMobileConfig) -> None:
        outs = [int(config.width * c) for c in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        alphas = [0, *[config.alpha] * 10, 0, 0, 0]
        blocks = [Separable(outs[i], outs[i + 1], strides[i], (alphas[i], alphas[i + 1])) for i in range(13)]
        cuts = [0, 1, 3, 5, 11, 13]
        super().__init__(
            config,
            ConvNorm(config.in_chans, outs[0], 3, 2),
            [Stage(blocks[a:b]) for a, b in pairwise(cuts)],
            [outs[i] for i in cuts],
            [2, 2, 4, 8, 16, 32],
        )

    def join(self, x: Pair | Tensor) -> Tensor:
        """Return one tensor for what flows between stages."""
        return merge(x) if isinstance(x, tuple) else x


class OctaveMobileNetV2(Backbone):
    """17 inverted residuals, the first 13 of them with octaves in their middle."""

    def __init__(self, config: OctaveMobileConfig) -> None:
        channels = int(config.width * 32)
        stem = ConvNorm(config.in_chans, channels, 3, 2, act="relu6")
        widths, stages, reductions, count = [channels], [], [2], 0
        for rows in V2_STAGES:
            blocks = []
            for expand, width, depth, stride in rows:
                for i in range(depth):
                    alpha = config.alpha if count < 13 else 0
                    out = int(config.width * width)
                    blocks.append(Inverted(channels, out, expand, stride if i == 0 else 1, alpha))
                    channels, count = out, count + 1
            stages.append(Stage(blocks))
            widths.append(channels)
            reductions.append(reductions[-1] * rows[0][3])
        last = int(1280 * max(1, config.width))
        tail = ConvNorm(channels, last, act="relu6")
        super().__init__(config, stem, stages, widths, reductions, tail=tail, num_features=last)


family = Family(
    OctaveMobileNetV1,
    paper="arXiv:1904.05049",
    source="facebookresearch/OctConv",
    layouts=layouts.MOBILENET_V1,
)

family.add(
    "oct_mobilenetv1_075_a0375",
    OctaveMobileConfig(width=0.75, alpha=0.375),
    Claims(2_585_560, 211.4, counted="O", top1_error=29.5, top5_error=10.5),
)
family.add(
    "oct_mobilenetv1_100_a05",
    OctaveMobileConfig(alpha=0.5),
    Claims(4_231_976, 318.2, counted="O", top1_error=27.5, top5_error=9.4),
)

family = Family(OctaveMobileNetV2, paper="arXiv:1904.05049", source="facebookresearch/OctConv")

family.add(
    "oct_mobilenetv2_100_a0375",
    OctaveMobileConfig(alpha=0.375),
    Claims(3_505_960, 254.0, counted="O", top1_error=28.0, top5_error=9.3),
)
family.add(
    "oct_mobilenetv2_1125_a05",
    OctaveMobileConfig(width=1.125, alpha=0.5),
    Claims(4_243_006, 292.8, counted="O", top1_error=27.0, top5_error=8.8),
)
