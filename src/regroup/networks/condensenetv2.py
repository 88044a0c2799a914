"""CondenseNet V2 (arXiv:2104.04382): new features also renew the old ones, sparsely.

The networks are as deployed; `learned=True` builds one whose groups are still to be learned, as in
`condensenet`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.blocks import SqueezeExcite
from regroup.networks.condensenet import CondensedConfig, NormActConv, condensed_conv
from regroup.networks.layouts import condensenet as layouts
from regroup.networks.skeletons import DenseNetLike, check_depths
from regroup.ops.scattered import ScatteredGroupConv
from regroup.spec import ConvSpec
from regroup.strategies.reactivated import ReactivatedConv


@dataclass(frozen=True, kw_only=True)
class CondenseNetV2Config(CondensedConfig):
    """Numbers of a CondenseNet V2. Groups that renew old features choose and thin their outputs.

    Args:
        hidden: width of the layer before the classifier.
        swish_from: the stage from which on the activation is hard swish instead of ReLU.
        squeeze_from: the stage from which on new features pass a gate.
    """

    hidden: int
    swish_from: int = 2
    squeeze_from: int = 3


def reactivated_conv(spec: ConvSpec, config: CondenseNetV2Config, act: str) -> nn.Module:
    """Return batch norm, activation and reactivated convolution, learned or as deployed."""
    if not config.learned:
        return ScatteredGroupConv(spec, config.groups, spec.out_channels // config.factor, act=act)
    return ReactivatedConv(spec, config.groups, config.factor, lasso=config.lasso, norm=True, act=act)


class ReactivatedLayer(nn.Module):
    """New features by a condensed 1x1 and a grouped 3x3 convolution; added to the old by a scattered 1x1.

    (N, C, H, W) -> (N, C + growth, H, W): old + scattered(new), then new.

    Args:
        in_channels: of the input.
        growth: channels that are added.
        act: activation of all three convolutions.
        squeeze: whether the new features pass a gate.
        config: says groups, factor and bottleneck.
    """

    def __init__(
        self, in_channels: int, growth: int, act: str, squeeze: bool, config: CondenseNetV2Config
    ) -> None:
        super().__init__()
        if in_channels % config.factor:
            raise NetworkError("factor", config.factor, f"a divisor of {in_channels} channels")
        middle = config.bottleneck * growth
        self.conv1 = condensed_conv(ConvSpec(in_channels, middle, 1), config, act)
        self.conv2 = NormActConv(middle, growth, 3, config.groups, act)
        self.squeeze = SqueezeExcite(growth, growth, bias=False) if squeeze else nn.Identity()
        self.reactivate = reactivated_conv(ConvSpec(growth, in_channels, 1), config, act)

    def forward(self, x: Tensor) -> Tensor:
        new = self.squeeze(self.conv2(self.conv1(x)))
        return torch.cat([x + self.reactivate(new), new], 1)


class CondenseNetV2(DenseNetLike):
    """Reactivated layers, and after the pooling a gate and a hidden layer.

    Batch norms start with weight 1. The official code first gives 0 to those of the reactivation, and then 1
    like to all others; with ReLU, 0 would never change.
    """

    def __init__(self, config: CondenseNetV2Config) -> None:
        def layer(stage: int, in_channels: int) -> nn.Module:
            act = "hardswish" if stage >= config.swish_from else "relu"
            squeeze = stage >= config.squeeze_from
            return ReactivatedLayer(in_channels, config.growth[stage], act, squeeze, config)

        check_depths(config.depths, len(config.growth))
        added = sum(d * g for d, g in zip(config.depths, config.growth, strict=True))
        features = 2 * config.growth[0] + added
        gate = SqueezeExcite(features, features // 16, bias=False)
        head = nn.Sequential(gate, nn.Flatten(), nn.Linear(features, config.hidden), nn.Hardswish())
        super().__init__(config, layer, hidden=(head, config.hidden))


family = Family(
    CondenseNetV2,
    paper="arXiv:2104.04382",
    source="jianghaojun/CondenseNetV2",
    layouts=layouts.CONDENSENET_V2,
)

for name, depths, growth, groups, hidden, counts, error in (
    ("a", (1, 1, 4, 6, 8), (8, 8, 16, 32, 64), 8, 828, (2_038_444, 43.1), 35.6),
    ("b", (2, 4, 6, 8, 6), (6, 12, 24, 48, 96), 6, 1024, (3_592_662, 140.5), 28.1),
    ("c", (4, 6, 8, 10, 8), (8, 16, 32, 64, 128), 8, 1024, (6_177_512, 295.8), 24.1),
):
    family.add(
        f"condensenetv2_{name}",
        CondenseNetV2Config(depths=depths, growth=growth, groups=groups, factor=groups, hidden=hidden),
        Claims(*counts, top1_error=error),
    )
