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
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvNorm, Stage
from regroup.networks.octave_blocks import NORMS, PATHS, OctaveConvNorm, OctaveSqueeze
from regroup.networks.weights import Layout, State
from regroup.strategies.octave import OctaveConv, Pair, merge

DEPTHS = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


@dataclass(frozen=True, kw_only=True)
class OctaveResNetConfig(Config):
    """Numbers of an octave ResNet or ResNeXt.

    Args:
        depths: blocks of each stage.
        widths: base width of each stage; a bottleneck gives four times as many channels.
        alpha: share of low channels in all stages but the last.
        groups: of each path of the 3x3 convolution in a bottleneck.
        group_width: channels of one group at base width 64; grows with the width.
        squeeze: squeeze and excite after each bottleneck, with a 16th of its channels.
        late: the 3x3 convolution of the last stage's first block ends the octaves, as in pytorchcv, instead
            of the 1x1 before it.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    alpha: float = 0.5
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


class OctaveResNet(Backbone):
    """A ResNet whose stages hand over pairs; only the stem and the last stage have one resolution.

    As feature maps, pairs are merged: low is upsampled and stands after high.
    """

    def __init__(self, config: OctaveResNetConfig) -> None:
        channels = config.widths[0]
        stem = ConvNorm(config.in_chans, channels, 7, 2)
        widths, stages, alpha = [channels], [], 0.0
        for index, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            alpha_out = 0.0 if index == len(config.depths) - 1 else config.alpha
            blocks = []
            for i in range(depth):
                stride = 2 if i == 0 and index > 0 else 1
                blocks.append(OctaveBottleneck(channels, width, stride, (alpha, alpha_out), config))
                channels, alpha = 4 * width, alpha_out
            stages.append(Stage(blocks, None if index else nn.MaxPool2d(3, stride=2, padding=1)))
            widths.append(channels)
        super().__init__(config, stem, stages, widths, [2, *(4 * 2**i for i in range(len(stages)))])

    def join(self, x: Pair | Tensor) -> Tensor:
        """Return one tensor for what flows between stages."""
        return merge(x) if isinstance(x, tuple) else x


def _d_li14(model: Backbone) -> dict[str, str]:
    blocks = {f"layer{s + 1}.{b}": name for s, b, name in model.blocks()}
    return {"conv1": "stem.conv", "bn1": "stem.norm", "fc": "classifier", **blocks}


def _pytorchcv(model: Backbone) -> dict[str, str]:
    prefixes = {"features.init_block.conv.conv": "stem.conv", "features.init_block.conv.bn": "stem.norm"}
    for s, b, name in model.blocks():
        unit = f"features.stage{s + 1}.unit{b + 1}"
        prefixes |= {f"{unit}.body": name, f"{unit}.identity_conv": f"{name}.shortcut"}
    return prefixes | {"output": "classifier"}


def _split_fused(model: Backbone, state: State) -> State:
    """Cut pytorchcv's one weight of all four paths."""
    for name, layer in model.named_modules():
        if not isinstance(layer, OctaveConv) or f"{name}.weight" not in state:
            continue
        whole = state.pop(f"{name}.weight")
        rows, columns = layer.h2h.get_parameter("weight").shape[:2]
        for path, _ in layer.named_children():
            part = whole[:rows] if path[2] == "h" else whole[rows:]
            state[f"{name}.{path}.weight"] = part[:, :columns] if path[0] == "h" else part[:, columns:]
    return state


D_LI14 = {f"downsample.0.{theirs}": f"shortcut.{ours}" for theirs, ours in (PATHS | NORMS).items()}

family = Family(
    OctaveResNet,
    paper="arXiv:1904.05049",
    source="facebookresearch/OctConv",
    layouts=(
        Layout("d-li14/octconv.pytorch", _d_li14, D_LI14 | PATHS | NORMS),
        Layout("pytorchcv", _pytorchcv, {"h_bn": "norm.high.0", "l_bn": "norm.low.0"}, _split_fused),
    ),
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
    (101, 0.5, 3991.2, 78.7),
    (152, 0.5, 5615.3, 79.26),
    (200, 0.125, 12564.3, 80.0),
):
    parameters = {26: 15_995_176, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808, 200: 64_673_832}[depth]
    family.add(
        f"oct_resnet{depth}_a{str(alpha).replace('.', '')}",
        OctaveResNetConfig(depths=DEPTHS[depth], alpha=alpha),
        Claims(parameters, mega_macs, counted="O", top1_error=round(100 - accuracy, 2)),
    )

for alpha, mega_macs, accuracy in ((0.125, 3567.7, 78.7), (0.25, 3106.0, 78.4), (0.5, 2369.7, 77.9)):
    family.add(
        f"oct_seresnet50_a{str(alpha).replace('.', '')}",
        OctaveResNetConfig(depths=DEPTHS[50], alpha=alpha, squeeze=True),
        Claims(28_088_024, mega_macs, counted="O", top1_error=round(100 - accuracy, 2)),
    )

for depth, alpha, counts, accuracy in (
    (50, 0.25, (25_028_904, 3171.0), 78.8),
    (50, 0.5, (25_028_904, 2386.5), 78.4),
    (101, 0.25, (44_177_704, 5683.5), 79.6),
):
    family.add(
        f"oct_resnext{depth}_32x4d_a{str(alpha).replace('.', '')}",
        OctaveResNetConfig(depths=DEPTHS[depth], alpha=alpha, groups=32, group_width=4),
        Claims(*counts, counted="O", top1_error=round(100 - accuracy, 2)),
    )
