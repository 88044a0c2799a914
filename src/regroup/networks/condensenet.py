"""CondenseNet (arXiv:1711.09224) as it is deployed: the groups of 1x1 convolutions have chosen their inputs.

All layers feed all later ones, across stages too. Training with learned groups is the strategy `condensed`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import Stage
from regroup.networks.weights import Layout
from regroup.ops.indexed import IndexedGroupConv, IndexedLinear
from regroup.ops.layers import ACTIVATIONS, conv
from regroup.spec import ConvSpec


@dataclass(frozen=True, kw_only=True)
class CondenseNetConfig(Config):
    """Numbers of a CondenseNet.

    Args:
        depths: layers of each stage.
        growth: channels that a layer of each stage adds.
        groups: of all convolutions but the first; must divide all channel numbers.
        factor: by how much condensing has thinned the inputs of each group: one in `factor` is left.
        bottleneck: channels between the two convolutions of a layer, as a multiple of the growth.
        kept: share of the features that the classifier reads.
        small: for small images: the first convolution has stride 1.
    """

    depths: tuple[int, ...]
    growth: tuple[int, ...]
    groups: int = 4
    factor: int = 4
    bottleneck: int = 4
    kept: float = 0.5
    small: bool = False


class NormActConv(nn.Module):
    """Batch norm, activation, convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, groups: int, act: str = "relu"
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.act = ACTIVATIONS[act]()
        self.conv = conv(ConvSpec(in_channels, out_channels, 1).with_kernel(kernel_size), groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(self.norm(x)))


class CondensedLayer(nn.Module):
    """A condensed 1x1 convolution and a 3x3 one in groups; what they give is added to the channels.

    Args:
        in_channels: of the input.
        growth: channels that are added.
        config: says groups, factor and bottleneck.
    """

    def __init__(self, in_channels: int, growth: int, config: CondenseNetConfig) -> None:
        super().__init__()
        if in_channels % config.factor:
            raise NetworkError("factor", config.factor, f"a divisor of {in_channels} channels")
        middle = config.bottleneck * growth
        kept = in_channels // config.factor
        self.conv1 = IndexedGroupConv(ConvSpec(in_channels, middle, 1), config.groups, kept)
        self.conv2 = NormActConv(middle, growth, 3, config.groups)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(self.conv1(x))], 1)


class CondenseNet(Backbone):
    """A 3x3 convolution, stages of growing width with average pooling between them."""

    min_size = 32

    def __init__(self, config: CondenseNetConfig) -> None:
        channels = 2 * config.growth[0]
        step = 1 if config.small else 2
        stem = nn.Conv2d(config.in_chans, channels, 3, step, 1, bias=False)
        widths, stages = [channels], []
        for index, (depth, growth) in enumerate(zip(config.depths, config.growth, strict=True)):
            layers = [CondensedLayer(channels + i * growth, growth, config) for i in range(depth)]
            stages.append(Stage(layers, nn.AvgPool2d(2) if index else None))
            channels += depth * growth
            widths.append(channels)
        tail = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        reductions = [step, *(step * 2**i for i in range(len(stages)))]
        super().__init__(config, stem, stages, widths, reductions, tail=tail)
        self.min_size = step * 2 ** (len(stages) - 1)

    def new_classifier(self, num_classes: int) -> nn.Module:
        """Return a classifier that reads a share of the features, with new weights."""
        kept = int(self.head_hidden_size * self.config.kept)
        return IndexedLinear(self.head_hidden_size, num_classes, kept)


def _official(model: Backbone) -> dict[str, str]:
    prefixes = {"features.init_conv": "stem", "features.norm_last": "tail.0"}
    for s, b, name in model.blocks():
        prefixes[f"features.denseblock_{s + 1}.denselayer_{b + 1}"] = name
    return prefixes | {"classifier.linear": "classifier"}


def _pytorchcv(model: Backbone) -> dict[str, str]:
    prefixes = {"features.init_block.conv": "stem", "features.post_activ.bn": "tail.0"}
    prefixes |= {f"features.stage{s + 1}.unit{b + 1}": name for s, b, name in model.blocks()}
    return prefixes | {"output.linear": "classifier", "output": "classifier"}


family = Family(
    CondenseNet,
    paper="arXiv:1711.09224",
    source="ShichenLiu/CondenseNet",
    layouts=(
        Layout("ShichenLiu/CondenseNet", _official, {"conv_1": "conv1", "conv_2": "conv2"}),
        Layout("pytorchcv", _pytorchcv, {"bn": "norm"}),
    ),
)

for groups, counts, errors in (
    (4, (4_773_944, 516.6), (26.2, 8.3)),
    (8, (2_935_416, 261.5), (29.0, 10.0)),
):
    family.add(
        f"condensenet_74_g{groups}",
        CondenseNetConfig(depths=(4, 6, 8, 10, 8), growth=(8, 16, 32, 64, 128), groups=groups, factor=groups),
        Claims(*counts, top1_error=errors[0], top5_error=errors[1]),
    )

for depth, growth, counts, error in (
    (50, 8, (214_186, 27.2), 6.22),
    (74, 8, (402_026, 49.2), 5.28),
    (86, 8, (516_202, 62.4), 5.06),
    (98, 8, (643_882, 77.0), 4.83),
    (110, 8, (785_066, 93.0), 4.63),
    (122, 8, (939_754, 110.5), 4.48),
    (182, 12, (4_209_226, 493.9), 3.76),
):
    family.add(
        f"condensenet_cifar_{depth}",
        CondenseNetConfig(
            depths=((depth - 2) // 6,) * 3,
            growth=(growth, 2 * growth, 4 * growth),
            small=True,
            num_classes=10,
        ),
        Claims(*counts, size=(32, 32), counted="O", top1_error=error, data="CIFAR-10"),
    )
