"""Octave ResNets of the ablation (arXiv:1904.05049, table 2): pre-activation, with the errors stated.

Batch norm and ReLU come before each convolution, as in the Symbol code; the stride is on the 3x3 convolution.
Names end in alpha: `oct_resnetv2_50_a025` has a quarter of its channels at half the resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.octave import DEPTHS
from regroup.networks.octave_blocks import OctaveConfig, OctaveSqueeze, Unchanged
from regroup.networks.skeletons import ResNetLike
from regroup.spec import ConvSpec
from regroup.strategies.octave import OctaveConv, OctaveNormAct, Pair, merge


@dataclass(frozen=True, kw_only=True)
class OctaveResNetV2Config(OctaveConfig):
    """Numbers of a pre-activation octave ResNet or ResNeXt; its last stage has no low channels.

    Args:
        depths: blocks of each stage.
        widths: base width of each stage; a bottleneck gives four times as many channels.
        groups: of each path of the 3x3 convolution in a bottleneck.
        group_width: channels of one group at base width 64; grows with the width.
        squeeze: squeeze and excite at the end of each bottleneck, with a 16th of its channels.
        eps: of the batch norms.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    group_width: int = 64
    squeeze: bool = False
    eps: float = 1e-4


class OctaveNormConv(nn.Module):
    """Batch norm and ReLU on each octave, then an octave convolution: pair in, pair out.

    Args:
        in_channels: of both octaves.
        out_channels: of both octaves.
        kernel_size: odd.
        stride: 1 or 2.
        alphas: share of low channels in input and output.
        groups: of each path.
        eps: of the batch norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        alphas: tuple[float, float],
        groups: int = 1,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm = OctaveNormAct(in_channels, alphas[0], eps=eps)
        spec = ConvSpec(in_channels, out_channels, 1, stride).with_kernel(kernel_size)
        self.conv = OctaveConv(spec, *alphas, groups)

    def forward(self, pair: Pair) -> Pair:
        return self.conv(self.norm(pair))


class OctaveBottleneckV2(nn.Module):
    """1x1, 3x3 and 1x1 on pairs, a gate, and a shortcut, which has a convolution in each stage's first block.

    Args:
        in_channels: of both octaves.
        width: base width; gives four times as many channels.
        stride: of the 3x3 convolution.
        alphas: share of low channels in input and output.
        config: says groups, group width, squeeze and eps.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        alphas: tuple[float, float],
        config: OctaveResNetV2Config,
    ) -> None:
        super().__init__()
        middle, out_channels = width * config.group_width // 64 * config.groups, 4 * width
        inner, eps = (alphas[1], alphas[1]), config.eps
        self.conv1 = OctaveNormConv(in_channels, middle, alphas=alphas, eps=eps)
        self.conv2 = OctaveNormConv(middle, middle, 3, stride, alphas=inner, groups=config.groups, eps=eps)
        self.conv3 = OctaveNormConv(middle, out_channels, alphas=inner, eps=eps)
        self.squeeze = Unchanged()
        if config.squeeze:
            self.squeeze = OctaveSqueeze(out_channels, alphas[1], out_channels // 16)
        self.shortcut = Unchanged()
        if stride > 1 or in_channels != out_channels or alphas[0] != alphas[1]:
            self.shortcut = OctaveNormConv(in_channels, out_channels, 1, stride, alphas=alphas, eps=eps)

    def forward(self, x: Pair | Tensor) -> Pair:
        pair = x if isinstance(x, tuple) else (x, None)
        high, low = self.squeeze(self.conv3(self.conv2(self.conv1(pair))))
        past_high, past_low = self.shortcut(pair)
        return high + past_high, None if low is None else low + past_low


class OctaveResNetV2(ResNetLike):
    """A pre-activation ResNet whose stages hand over pairs; only the stem and the last stage have one size.

    As feature maps, pairs are merged: low is upsampled and stands after high.
    """

    def __init__(self, config: OctaveResNetV2Config) -> None:
        alphas = [*[config.alpha] * (len(config.depths) - 1), 0.0]
        outs = [4 * width for width in config.widths]

        def block(in_channels: int, stage: int, index: int, stride: int) -> nn.Module:
            before = alphas[stage] if index else alphas[stage - 1] if stage else 0.0
            ends = before, alphas[stage]
            return OctaveBottleneckV2(in_channels, config.widths[stage], stride, ends, config)

        tail = nn.Sequential(nn.BatchNorm2d(outs[-1], eps=config.eps), nn.ReLU())
        super().__init__(config, config.widths[0], outs, block, eps=config.eps, tail=tail)

    def join(self, x: Pair | Tensor) -> Tensor:
        """Return one tensor for what flows between stages."""
        return merge(x) if isinstance(x, tuple) else x


family = Family(OctaveResNetV2, paper="arXiv:1904.05049", source="facebookresearch/OctConv")

# depth; parameters; alpha: MACs in millions, top-1 and top-5 accuracy
PLAIN = {
    26: (
        15_991_336,
        {
            0.125: (2087.0, 75.8, 92.6),
            0.25: (1858.2, 76.1, 92.6),
            0.5: (1480.0, 75.5, 92.5),
            0.75: (1207.9, 74.6, 92.1),
        },
    ),
    50: (
        25_553_192,
        {
            0.125: (3565.2, 78.2, 93.9),
            0.25: (3103.5, 78.0, 93.8),
            0.5: (2367.1, 77.4, 93.6),
            0.75: (1880.0, 76.7, 93.0),
        },
    ),
    101: (44_545_320, {0.125: (6624.9, 79.2, 94.4), 0.25: (5597.7, 79.2, 94.4), 0.5: (3991.2, 78.7, 94.1)}),
    200: (64_669_992, {0.125: (12564.3, 80.0, 94.9), 0.25: (10439.3, 79.8, 94.8), 0.5: (7143.9, 79.5, 94.7)}),
}
SQUEEZED = {
    50: (
        28_084_184,
        {
            0.125: (3567.7, 78.7, 94.1),
            0.25: (3106.0, 78.4, 94.0),
            0.5: (2369.7, 77.9, 93.8),
            0.75: (1882.6, 77.4, 93.5),
        },
    ),
}
GROUPED = {
    50: (25_025_064, {0.25: (3171.0, 78.8, 94.2), 0.5: (2386.5, 78.4, 94.0), 0.75: (1877.0, 77.5, 93.6)}),
    101: (44_173_864, {0.25: (5683.5, 79.6, 94.5), 0.5: (4022.6, 78.9, 94.4)}),
}
ABLATION = OctaveResNetV2Config(depths=DEPTHS[50])
for prefix, suffix, table, config in (
    ("oct_resnetv2", "", PLAIN, ABLATION),
    ("oct_seresnetv2", "", SQUEEZED, replace(ABLATION, squeeze=True)),
    ("oct_resnextv2", "_32x4d", GROUPED, replace(ABLATION, groups=32, group_width=4)),
):
    for depth, (parameters, rows) in table.items():
        for alpha, (mega_macs, top1, top5) in rows.items():
            family.add(
                f"{prefix}_{depth}{suffix}_a{str(alpha).replace('.', '')}",
                replace(config, depths=DEPTHS[depth], alpha=alpha),
                Claims(
                    parameters,
                    mega_macs,
                    counted="O",
                    top1_error=round(100 - top1, 1),
                    top5_error=round(100 - top5, 1),
                ),
            )
