"""Octave ResNets of the ablation (arXiv:1904.05049, table 2): pre-activation, with the errors stated.

Batch norm and ReLU come before each convolution, as in the Symbol code; the stride is on the 3x3 convolution.
Names end in alpha: `oct_resnetv2_50_a025` has a quarter of its channels at half the resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.octave import DEPTHS
from regroup.networks.octave_blocks import OctaveBottleneckV2, OctaveConfig
from regroup.networks.skeletons import ResNetLike
from regroup.strategies.octave import Pair, merge


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
