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
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import SqueezeExcite, Stage
from regroup.networks.condensenet import NormActConv, adopt_learning, condensed_conv
from regroup.networks.weights import Layout, State
from regroup.ops.scattered import ScatteredGroupConv
from regroup.spec import ConvSpec
from regroup.strategies.reactivated import ReactivatedConv


@dataclass(frozen=True, kw_only=True)
class CondenseNetV2Config(Config):
    """Numbers of a CondenseNet V2.

    Args:
        depths: layers of each stage.
        growth: channels that a layer of each stage adds.
        hidden: width of the layer before the classifier.
        groups: of all convolutions but the first; must divide all channel numbers.
        factor: by how much condensing has thinned the inputs of each group, and the outputs of each group
            that renews old features: one in `factor` is left.
        bottleneck: channels between the two convolutions of a layer, as a multiple of the growth.
        swish_from: the stage from which on the activation is hard swish instead of ReLU.
        squeeze_from: the stage from which on new features pass a gate.
        learned: the groups are still to choose their inputs and outputs.
        lasso: group lasso while they do, see `condensed`; the paper has none.
        conv_drop_rate: dropout before condensed convolutions while they do.
    """

    depths: tuple[int, ...]
    growth: tuple[int, ...]
    hidden: int
    groups: int = 8
    factor: int = 8
    bottleneck: int = 4
    swish_from: int = 2
    squeeze_from: int = 3
    learned: bool = False
    lasso: float = 0.0
    conv_drop_rate: float = 0.0


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


class CondenseNetV2(Backbone):
    """A 3x3 convolution, stages of growing width with average pooling between, a gate, a hidden layer.

    Batch norms start with weight 1. The official code first gives 0 to those of the reactivation, and then 1
    like to all others; with ReLU, 0 would never change.
    """

    min_size = 32

    def __init__(self, config: CondenseNetV2Config) -> None:
        channels = 2 * config.growth[0]
        stem = nn.Conv2d(config.in_chans, channels, 3, 2, 1, bias=False)
        widths, stages = [channels], []
        for index, (depth, growth) in enumerate(zip(config.depths, config.growth, strict=True)):
            act = "hardswish" if index >= config.swish_from else "relu"
            squeeze = index >= config.squeeze_from
            layers = [
                ReactivatedLayer(channels + i * growth, growth, act, squeeze, config) for i in range(depth)
            ]
            stages.append(Stage(layers, nn.AvgPool2d(2) if index else None))
            channels += depth * growth
            widths.append(channels)
        tail = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        gate = SqueezeExcite(channels, channels // 16, bias=False)
        head = nn.Sequential(gate, nn.Flatten(), nn.Linear(channels, config.hidden), nn.Hardswish())
        reductions = [2, *(2 * 2**i for i in range(len(stages)))]
        hidden = head, config.hidden
        super().__init__(config, stem, stages, widths, reductions, tail=tail, hidden=hidden)


def _official(model: Backbone) -> dict[str, str]:
    prefixes = {"features.init_conv": "stem", "features.norm_last": "tail.0", "fc": "hidden.2"}
    for k, part in ((0, "reduce"), (2, "expand")):
        prefixes[f"features.se_last.fc.{k}"] = f"hidden.0.{part}"
    for s, b, name in model.blocks():
        prefixes[f"features.denseblock_{s + 1}.denselayer_{b + 1}"] = name
    return prefixes


def _list_rows(model: Backbone, state: State) -> State:
    """Turn matrices with one 1 in every row into the list of its columns; others stay, and do not fit."""
    for key in [key for key in state if key.endswith("reactivate.index") and state[key].ndim == 2]:
        matrix = state[key]
        if bool((matrix.count_nonzero(1) == 1).all() and (matrix.sum(1) == 1).all()):
            state[key] = matrix.argmax(1)
    return adopt_learning(model, state)


PARTS = {
    "conv_1": "conv1",
    "conv_2": "conv2",
    "sfr": "reactivate",
    "se.fc.0": "squeeze.reduce",
    "se.fc.2": "squeeze.expand",
}

family = Family(
    CondenseNetV2,
    paper="arXiv:2104.04382",
    source="jianghaojun/CondenseNetV2",
    layouts=(Layout("jianghaojun/CondenseNetV2", _official, PARTS, _list_rows),),
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
