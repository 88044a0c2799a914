"""CondenseNet (arXiv:1711.09224): the groups of 1x1 convolutions choose their inputs.

All layers feed all later ones, across stages too. The networks are as deployed, with the choice made; to
train one from scratch, build it with `learned=True`, and deploy it when training is over:

>>> from regroup.networks import create_model
>>> from regroup.strategies.learning import deploy, set_progress
>>> model = create_model("condensenet_cifar_50", learned=True)
>>> set_progress(model, 1)
>>> deployed = create_model("condensenet_cifar_50", weights=deploy(model).state_dict())
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.layouts import condensenet as layouts
from regroup.networks.skeletons import DenseNetLike
from regroup.ops.indexed import IndexedGroupConv, IndexedLinear
from regroup.ops.layers import ACTIVATIONS, conv
from regroup.spec import ConvSpec
from regroup.strategies.condensed import CondensedConv, CondensedLinear
from regroup.strategies.learning import learned_modules


@dataclass(frozen=True, kw_only=True)
class CondensedConfig(Config):
    """Numbers that CondenseNets of both versions have.

    Args:
        depths: layers of each stage.
        growth: channels that a layer of each stage adds.
        groups: of all convolutions but the first; must divide all channel numbers.
        factor: by how much condensing has thinned the inputs of each group: one in `factor` is left.
        bottleneck: channels between the two convolutions of a layer, as a multiple of the growth.
        small: for small images: the first convolution has stride 1.
        learned: the groups are still to choose their inputs.
        lasso: group lasso while they do, see `condensed`; the paper has 1e-5 on ImageNet.
        conv_drop_rate: dropout before condensed convolutions while they do.
    """

    depths: tuple[int, ...]
    growth: tuple[int, ...]
    groups: int = 4
    factor: int = 4
    bottleneck: int = 4
    small: bool = False
    learned: bool = False
    lasso: float = 0.0
    conv_drop_rate: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CondenseNetConfig(CondensedConfig):
    """Numbers of a CondenseNet.

    Args:
        kept: share of the features that the classifier reads; it chooses them when it is `learned`.
    """

    kept: float = 0.5


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


def condensed_conv(spec: ConvSpec, config: CondensedConfig, act: str = "relu") -> nn.Module:
    """Return batch norm, activation and condensed convolution, as the config says learned or as deployed."""
    if not config.learned:
        return IndexedGroupConv(spec, config.groups, spec.in_channels // config.factor, act=act)
    return CondensedConv(
        spec,
        config.groups,
        config.factor,
        lasso=config.lasso,
        norm=True,
        act=act,
        drop_rate=config.conv_drop_rate,
    )


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
        self.conv1 = condensed_conv(ConvSpec(in_channels, middle, 1), config)
        self.conv2 = NormActConv(middle, growth, 3, config.groups)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(self.conv1(x))], 1)


class CondenseNet(DenseNetLike):
    """Condensed layers, and a classifier that reads some of their features."""

    def __init__(self, config: CondenseNetConfig) -> None:
        super().__init__(config, lambda stage, c: CondensedLayer(c, config.growth[stage], config))

    def new_classifier(self, num_classes: int) -> nn.Module:
        """Return a classifier that reads a share of the features, with new weights."""
        features, share = self.head_hidden_size, self.config.kept
        if learned_modules(self.stages):
            return CondensedLinear(features, num_classes, share)
        return IndexedLinear(features, num_classes, int(features * share))


family = Family(
    CondenseNet,
    paper="arXiv:1711.09224",
    source="ShichenLiu/CondenseNet",
    layouts=layouts.CONDENSENET,
)

for groups, counts, errors in (
    (4, (4_773_944, 516.6), (26.2, 8.3)),
    (8, (2_935_416, 261.5), (29.0, 10.0)),
):
    family.add(
        f"condensenet_74_g{groups}",
        CondenseNetConfig(
            depths=(4, 6, 8, 10, 8),
            growth=(8, 16, 32, 64, 128),
            groups=groups,
            factor=groups,
            lasso=1e-5,
        ),
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
            conv_drop_rate=0.1 if depth == 182 else 0.0,
            num_classes=10,
        ),
        Claims(*counts, size=(32, 32), counted="O", top1_error=error, data="CIFAR-10"),
    )
