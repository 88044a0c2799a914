"""Octave ResNets (arXiv:1904.05049): part of the channels flows through the network at half the resolution.

Post-activation ResNets with the stride on the 3x3 convolution, as in the Gluon code and in d-li14's PyTorch
one, whose weights load. The accuracies are those of the paper's ablation, which used pre-activation ResNets.
Names end in alpha: `oct_resnet50_a025` has a quarter of its channels at half the resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from regroup.networks import Claims, Family
from regroup.networks.layouts import octave as layouts
from regroup.networks.octave_blocks import OctaveConfig, OctaveConvNorm, OctaveSqueeze
from regroup.networks.skeletons import ResNetLike
from regroup.strategies.octave import Pair, merge

DEPTHS = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


@dataclass(frozen=True, kw_only=True)
class OctaveResNetConfig(OctaveConfig):
    """Numbers of an octave ResNet or ResNeXt; its last stage has no low channels.

    Args:
        depths: blocks of each stage.
        widths: base width of each stage; a bottleneck gives four times as many channels.
        groups: of each path of the 3x3 convolution in a bottleneck.
        group_width: channels of one group at base width 64; grows with the width.
        squeeze: squeeze and excite after each bottleneck, with a 16th of its channels.
        late: the 3x3 convolution of the last stage's first block ends the octaves, as in pytorchcv, instead
            of the 1x1 before it.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    group_width: int = 64
    squeeze: bool = False
    late: bool = False


class Unchanged(nn.Module):
    """The identity of a pair; FX does not look into nn.Identity and would not see the pair."""

    def forward(self, pair: Pair) -> Pair:
        return pair


class OctaveBottleneck(nn.Module):
    """A bottleneck on pairs; the first of a network takes one tensor.

    Args:
        in_channels: of both octaves.
        width: base width; gives four times as many channels.
        stride: of the 3x3 convolution.
        alphas: share of low channels in input and output.
        config: says groups, group width and squeeze.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        alphas: tuple[float, float],
        config: OctaveResNetConfig,
    ) -> None:
        super().__init__()
        middle, out_channels = width * config.group_width // 64 * config.groups, 4 * width
        ends = alphas[0] > 0 and alphas[1] == 0
        kept = alphas[0] if ends and config.late else alphas[1]
        self.conv1 = OctaveConvNorm(in_channels, middle, alphas=(alphas[0], kept))
        self.conv2 = OctaveConvNorm(middle, middle, 3, stride, alphas=(kept, alphas[1]), groups=config.groups)
        self.conv3 = OctaveConvNorm(middle, out_channels, alphas=(alphas[1],) * 2, act="none")
        self.squeeze = Unchanged()
        if config.squeeze:
            self.squeeze = OctaveSqueeze(out_channels, alphas[1], out_channels // 16)
        self.shortcut = Unchanged()
        if stride > 1 or in_channels != out_channels or alphas[0] != alphas[1]:
            self.shortcut = OctaveConvNorm(in_channels, out_channels, 1, stride, alphas=alphas, act="none")

    def forward(self, x: Pair | Tensor) -> Pair:
        pair = x if isinstance(x, tuple) else (x, None)
        high, low = self.squeeze(self.conv3(self.conv2(self.conv1(pair))))
        past_high, past_low = self.shortcut(pair)
        high = F.relu(high + past_high)
        return (high, None) if low is None else (high, F.relu(low + past_low))


class OctaveResNet(ResNetLike):
    """A ResNet whose stages hand over pairs; only the stem and the last stage have one resolution.

    As feature maps, pairs are merged: low is upsampled and stands after high.
    """

    def __init__(self, config: OctaveResNetConfig) -> None:
        alphas = [*[config.alpha] * (len(config.depths) - 1), 0.0]

        def block(in_channels: int, stage: int, index: int, stride: int) -> nn.Module:
            before = alphas[stage] if index else alphas[stage - 1] if stage else 0.0
            return OctaveBottleneck(
                in_channels, config.widths[stage], stride, (before, alphas[stage]), config
            )

        super().__init__(config, config.widths[0], [4 * width for width in config.widths], block)

    def join(self, x: Pair | Tensor) -> Tensor:
        """Return one tensor for what flows between stages."""
        return merge(x) if isinstance(x, tuple) else x


family = Family(
    OctaveResNet,
    paper="arXiv:1904.05049",
    source="facebookresearch/OctConv",
    layouts=layouts.RESNET,
)

for depth, alpha, mega_macs, accuracy in (
    (26, 0.125, 2087.0, 75.8),
    (26, 0.25, 1858.2, 76.1),
    (26, 0.5, 1480.0, 75.5),
    (26, 0.75, 1207.9, 74.6),
    (50, 0.125, 3565.2, 78.2),
    (50, 0.25, 3103.5, 78.0),
    (50, 0.5, 2367.1, 77.4),
    (50, 0.75, 1880.0, 76.7),
    (101, 0.125, 6624.9, 79.2),
    (101, 0.25, 5597.7, 79.2),
    (101, 0.5, 3991.2, 78.7),
    (152, 0.125, 9684.6, 81.4),
    (152, 0.5, 5615.3, 79.26),
    (200, 0.125, 12564.3, 80.0),
    (200, 0.25, 10439.3, 79.8),
    (200, 0.5, 7143.9, 79.5),
):
    parameters = {26: 15_995_176, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808, 200: 64_673_832}[depth]
    family.add(
        f"oct_resnet{depth}_a{str(alpha).replace('.', '')}",
        OctaveResNetConfig(depths=DEPTHS[depth], alpha=alpha),
        Claims(parameters, mega_macs, counted="O", top1_error=round(100 - accuracy, 2)),
    )

for depth, alpha, counts, accuracy in (
    (50, 0.125, (28_088_024, 3567.7), 78.7),
    (50, 0.25, (28_088_024, 3106.0), 78.4),
    (50, 0.5, (28_088_024, 2369.7), 77.9),
    (50, 0.75, (28_088_024, 1882.6), 77.4),
    (152, 0.125, (66_821_848, 9691.1), 81.6),
):
    family.add(
        f"oct_seresnet{depth}_a{str(alpha).replace('.', '')}",
        OctaveResNetConfig(depths=DEPTHS[depth], alpha=alpha, squeeze=True),
        Claims(*counts, counted="O", top1_error=round(100 - accuracy, 2)),
    )

for depth, alpha, counts, accuracy in (
    (50, 0.25, (25_028_904, 3171.0), 78.8),
    (50, 0.5, (25_028_904, 2386.5), 78.4),
    (50, 0.75, (25_028_904, 1877.0), 77.5),
    (101, 0.25, (44_177_704, 5683.5), 79.6),
    (101, 0.5, (44_177_704, 4022.6), 78.9),
):
    family.add(
        f"oct_resnext{depth}_32x4d_a{str(alpha).replace('.', '')}",
        OctaveResNetConfig(depths=DEPTHS[depth], alpha=alpha, groups=32, group_width=4),
        Claims(*counts, counted="O", top1_error=round(100 - accuracy, 2)),
    )
