"""ShuffleNet V2 found by search: OneShot (arXiv:1904.00420) and, with gates and hard swish, ShuffleNet V2+.

A unit is the official ShuffleNet V2's with a larger kernel, or three separable convolutions, as in Xception.
Both networks have the same kinds of units; OneShot has found widths inside them, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvNorm, Stage
from regroup.networks.layouts import shufflenet as layouts
from regroup.networks.skeletons import check_depths
from regroup.ops.layers import ACTIVATIONS
from regroup.ops.order import ChannelShuffle

XCEPTION = 0
KERNELS = (3, 3, XCEPTION, 5, 5, 5, 3, 3, 7, 3, 7, 5, 5, 3, 7, 3, 7, 5, XCEPTION, 7)
SCALES = (1.4, 1.2, 0.8, 1.2, 0.6, 1.4, 0.8, 1.0, 0.6, 1.2, 1.6, 1.2, 1.0, 1.4, 1.6, 1.0, 1.0, 1.2, 1.0, 0.8)


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV2PlusConfig(Config):
    """Numbers of a ShuffleNet V2+ or OneShot.

    Args:
        widths: channels of the stem, the stages and the last 1x1 convolution; all but the first even.
        depths: units of each stage.
        kernels: of each unit's depthwise convolution; 0: three separable 3x3 convolutions.
        scales: of each unit's inner width, half its channels; () for 1.
        plus: hard swish from the second stage on, gates from the third, and a hidden layer at the end.
        bias: of the classifier.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...] = (4, 4, 8, 4)
    kernels: tuple[int, ...] = KERNELS
    scales: tuple[float, ...] = ()
    plus: bool = True
    bias: bool = False
    drop_rate: float = 0.2


class NormedSqueeze(nn.Module):
    """Gate every channel by all channels' means, with a batch norm between the two 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, channels // 4)
        self.expand = nn.Conv2d(channels // 4, channels, 1, bias=False)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.reduce(x.mean((2, 3), keepdim=True))))


class Unit(nn.Module):
    """The odd channels through a branch, the even ones past it; at stride 2 all channels both ways.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the depthwise convolution; 0: three separable 3x3 convolutions.
        middle: channels inside the branch.
        stride: 1 or 2.
        act: a name of `ACTIVATIONS`.
        squeeze: gate the branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        middle: int,
        *,
        stride: int,
        act: str,
        squeeze: bool,
    ) -> None:
        super().__init__()
        entering = in_channels if stride == 2 else in_channels // 2
        leaving, k = out_channels - entering, kernel_size or 3
        self.split, self.passing = nn.Identity(), nn.Identity()
        if stride == 2:
            dense = ConvNorm(entering, entering, act=act)
            self.passing = nn.Sequential(_depthwise(entering, k, stride), dense)
        else:
            self.split = ChannelShuffle(entering)  # even channels, then odd ones
        if kernel_size == XCEPTION:
            widths = (entering, middle, middle, leaving)
            layers = []
            for i in range(3):
                layers += [
                    _depthwise(widths[i], 3, 1 if i else stride),
                    ConvNorm(*widths[i : i + 2], act=act),
                ]
        else:
            first, last = ConvNorm(entering, middle, act=act), ConvNorm(middle, leaving, act=act)
            layers = [first, _depthwise(middle, k, stride), last]
        self.branch = nn.Sequential(*layers)
        self.squeeze = NormedSqueeze(leaving) if squeeze else nn.Identity()
        self.halves = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            past, y = self.split(x).chunk(2, 1)
        else:
            past, y = self.passing(x), x
        return torch.cat((past, self.squeeze(self.branch(y))), 1)


def _depthwise(channels: int, kernel_size: int, stride: int) -> ConvNorm:
    return ConvNorm(channels, channels, kernel_size, stride, groups=channels, act="none")


class ShuffleNetV2Plus(Backbone):
    """A 3x3 convolution, four stages of units, a 1x1 convolution; then perhaps a gate and a hidden layer."""

    def __init__(self, config: ShuffleNetV2PlusConfig) -> None:
        stem_width, *widths, head = config.widths
        check_depths(config.depths, len(widths))
        if len(config.kernels) != sum(config.depths):
            raise NetworkError("kernels", config.kernels, f"{sum(config.depths)}, one for each unit")
        if config.scales and len(config.scales) != len(config.kernels):
            raise NetworkError("scales", config.scales, f"{len(config.kernels)}, one for each unit, or none")
        channels, stages = stem_width, []
        numbers = zip(config.kernels, config.scales or (1.0,) * len(config.kernels), strict=True)
        for stage, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
            form: dict[str, Any] = {
                "act": "hardswish" if config.plus and stage else "relu",
                "squeeze": config.plus and stage > 1,
            }
            units = []
            for i in range(depth):
                kernel, scale = next(numbers)
                middle = int(width // 2 * scale)
                units.append(Unit(channels, width, kernel, middle, stride=1 if i else 2, **form))
                channels = width
            stages.append(Stage(units))
        act = "hardswish" if config.plus else "relu"
        hidden = None
        if config.plus:
            layers = (
                NormedSqueeze(head),
                nn.Flatten(),
                nn.Linear(head, head, bias=False),
                ACTIVATIONS[act](),
            )
            hidden = nn.Sequential(*layers), head
        super().__init__(
            config,
            ConvNorm(config.in_chans, stem_width, 3, 2, act=act),
            stages,
            (stem_width, *widths),
            (2, 4, 8, 16, 32),
            tail=ConvNorm(channels, head, act=act),
            num_features=head,
            hidden=hidden,
        )


family = Family(
    ShuffleNetV2Plus,
    paper="arXiv:1807.11164",
    source="megvii-model/ShuffleNet-Series",
    layouts=layouts.V2_PLUS,
)

for name, widths, counts, errors in (
    ("small", (36, 104, 208, 416), (5_137_116, 155.8), (25.9, 8.3)),
    ("medium", (48, 128, 256, 512), (5_679_840, 222.2), (24.3, 7.4)),
    ("large", (68, 168, 336, 672), (6_768_220, 360.1), (22.9, 6.7)),
):
    claims = Claims(*counts, top1_error=errors[0], top5_error=errors[1])
    family.add(f"shufflenet_v2_plus_{name}", ShuffleNetV2PlusConfig(widths=(16, *widths, 1280)), claims)

family.add(
    "shufflenet_oneshot",
    ShuffleNetV2PlusConfig(widths=(16, 64, 160, 320, 640, 1024), scales=SCALES, plus=False, drop_rate=0.1),
    Claims(3_432_579, 327.9, top1_error=25.1, top5_error=8.0),
    paper="arXiv:1904.00420",
)
