"""Octave ResNets after He et al.'s first form (arXiv:1904.05049): the ReLU follows the addition.

`oct_resnet50_a05` and the like are d-li14's PyTorch networks, with its errors: the stride is on the 3x3
convolution, as in version b of the official Gluon code. `oct_resnet152_v1f_a0125` and
`oct_seresnet152_v1e_a0125` are the two large networks of that code: deep stems, the stride on the second 1x1
convolution, and with gates also norms without weights before the first. Names end in alpha, the share of
channels at half the resolution. The networks of the paper's ablation are those of `octave_v2`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.blocks import ConvNorm
from regroup.networks.layouts import octave as layouts
from regroup.networks.octave_blocks import (
    OctaveConfig,
    OctaveConvNorm,
    OctaveSqueeze,
    OctaveStandardise,
    Unchanged,
)
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
        form: of stem and blocks: 'b', 'e' (three 3x3 convolutions first, the stride on the last 1x1) or 'f'
            (as 'e', with a bottleneck in place of the max pooling).
        standardise: norms without weights before each bottleneck's and shortcut's first convolution.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    group_width: int = 64
    squeeze: bool = False
    late: bool = False
    form: str = "b"
    standardise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("b", "e", "f"):
            raise NetworkError("form", self.form, "'b', 'e' or 'f'")


class OctaveBottleneck(nn.Module):
    """A bottleneck on pairs; the first of a network takes one tensor.

    Args:
        in_channels: of both octaves.
        width: base width; gives four times as many channels.
        stride: of the 3x3 convolution, or of the 1x1 after it.
        alphas: share of low channels in input and output.
        config: says groups, group width, squeeze, form and whether to standardise.
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
        second, third = (stride, 1) if config.form == "b" else (1, stride)
        inner = OctaveConvNorm(in_channels, middle, alphas=(alphas[0], kept))
        self.conv1 = _standardised(inner, in_channels, alphas[0], config)
        self.conv2 = OctaveConvNorm(middle, middle, 3, second, alphas=(kept, alphas[1]), groups=config.groups)
        self.conv3 = OctaveConvNorm(middle, out_channels, 1, third, alphas=(alphas[1],) * 2, act="none")
        self.squeeze = Unchanged()
        if config.squeeze:
            self.squeeze = OctaveSqueeze(out_channels, alphas[1], out_channels // 16)
        self.shortcut = Unchanged()
        if stride > 1 or in_channels != out_channels or alphas[0] != alphas[1]:
            past = OctaveConvNorm(in_channels, out_channels, 1, stride, alphas=alphas, act="none")
            self.shortcut = _standardised(past, in_channels, alphas[0], config)

    def forward(self, x: Pair | Tensor) -> Pair:
        pair = x if isinstance(x, tuple) else (x, None)
        high, low = self.squeeze(self.conv3(self.conv2(self.conv1(pair))))
        past_high, past_low = self.shortcut(pair)
        high = F.relu(high + past_high)
        return (high, None) if low is None else (high, F.relu(low + past_low))


def _standardised(layer: nn.Module, channels: int, alpha: float, config: OctaveResNetConfig) -> nn.Module:
    return nn.Sequential(OctaveStandardise(channels, alpha), layer) if config.standardise else layer


class PoolingBottleneck(nn.Module):
    """1x1, 3x3 with stride 2 and 1x1 beside a 1x1 with stride 2: what form f has in place of max pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.convs = nn.Sequential(
            ConvNorm(channels, half), ConvNorm(half, half, 3, 2), ConvNorm(half, channels, act="none")
        )
        self.shortcut = ConvNorm(channels, channels, 1, 2, act="none")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convs(x) + self.shortcut(x))


class OctaveResNet(ResNetLike):
    """A ResNet whose stages hand over pairs; only the stem and the last stage have one resolution.

    As feature maps, pairs are merged: low is upsampled and stands after high.
    """

    def __init__(self, config: OctaveResNetConfig) -> None:
        alphas = [*[config.alpha] * (len(config.depths) - 1), 0.0]
        channels, stem, pool = config.widths[0], None, None
        if config.form != "b":
            rows = [(channels // 2, 2), (channels // 2, 1), (channels, 1)]
            if config.form == "f":
                rows[:2] = [(channels // 8, 1), (channels // 2, 2)]
                pool = PoolingBottleneck(channels)
            entering = (config.in_chans, *(out for out, _ in rows))
            convs = [ConvNorm(c, out, 3, s) for c, (out, s) in zip(entering, rows, strict=False)]
            stem = nn.Sequential(*convs)

        def block(in_channels: int, stage: int, index: int, stride: int) -> nn.Module:
            before = alphas[stage] if index else alphas[stage - 1] if stage else 0.0
            ends = before, alphas[stage]
            return OctaveBottleneck(in_channels, config.widths[stage], stride, ends, config)

        outs = [4 * width for width in config.widths]
        super().__init__(config, channels, outs, block, stem=stem, pool=pool)

    def join(self, x: Pair | Tensor) -> Tensor:
        """Return one tensor for what flows between stages."""
        return merge(x) if isinstance(x, tuple) else x


family = Family(
    OctaveResNet,
    paper="arXiv:1904.05049",
    source="d-li14/octconv.pytorch",
    layouts=layouts.RESNET,
)

for depth, counts, errors in (
    (50, (25_557_032, 2367.1), (22.36, 6.338)),
    (101, (44_549_160, 3991.2), (21.206, 5.67)),
    (152, (60_192_808, 5615.3), (20.742, 5.52)),
):
    config = OctaveResNetConfig(depths=DEPTHS[depth], alpha=0.5)
    claims = Claims(*counts, counted="O", top1_error=errors[0], top5_error=errors[1])
    family.add(f"oct_resnet{depth}_a05", config, claims)

LARGE = OctaveResNetConfig(depths=DEPTHS[152], alpha=0.125, form="f")
GATED = replace(LARGE, form="e", squeeze=True, standardise=True)
for name, config, counts, errors in (
    ("oct_resnet152_v1f_a0125", LARGE, (60_222_224, 10_819.3), (18.6, 4.6)),
    ("oct_seresnet152_v1e_a0125", GATED, (66_841_080, 10_838.8), (18.4, 4.3)),
):
    claims = Claims(*counts, counted="O", top1_error=errors[0], top5_error=errors[1])
    family.add(name, config, claims, source="facebookresearch/OctConv", layouts=())
