"""ShuffleNet (arXiv:1707.01083): 1x1 convolutions in groups, and a channel shuffle so that the groups mix.

`order` says where the shuffle stands. 'paper': after the first 1x1, (groups, n) -> (n, groups). 'official':
the authors' code has it after the depthwise convolution and the other way round, and puts the pooled input
before the branch where the size halves, not after it. With 8 groups other groups meet, so that no permutation
of channels turns the weights of one order into those of the other: weights whose keys tell their order make a
network of that order, under either name. Names say groups and width: `shufflenet_v1_g3_050` has 3 groups and
half the channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvNorm, Stage
from regroup.networks.layouts import shufflenet as layouts
from regroup.networks.skeletons import check_depths
from regroup.ops.order import ChannelShuffle


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV1Config(Config):
    """Numbers of a ShuffleNet.

    Args:
        groups: of all 1x1 convolutions but the first.
        widths: channels of the stem and of the stages; their differences must be divisible by `groups`.
        depths: units of each stage.
        order: 'paper' or 'official'.
        bias: of the classifier; the official one has none.
    """

    groups: int
    widths: tuple[int, ...]
    depths: tuple[int, ...] = (4, 8, 4)
    order: str = "paper"
    bias: bool = False


class Unit(nn.Module):
    """Grouped 1x1, shuffle, 3x3 depthwise, grouped 1x1 (figure 2); the middle has a quarter of the channels.

    Where the groups do not divide that quarter, it is rounded up to a multiple of the groups.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, config: ShuffleNetV1Config, first: bool
    ) -> None:
        super().__init__()
        groups = config.groups
        middle = -(-(out_channels // 4) // groups) * groups
        official = config.order == "official"
        self.compress = ConvNorm(in_channels, middle, groups=1 if first else groups)
        shuffle = ChannelShuffle(middle // groups if official else groups)
        self.shuffle_before = nn.Identity() if official else shuffle
        self.depthwise = ConvNorm(middle, middle, 3, stride, groups=middle, act="none")
        self.shuffle_after = shuffle if official else nn.Identity()
        grown = out_channels - in_channels if stride == 2 else out_channels
        self.expand = ConvNorm(middle, grown, groups=groups, act="none")
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else nn.Identity()
        self.official, self.grows = official, stride == 2
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.shuffle_before(self.compress(x)))
        y = self.expand(self.shuffle_after(y))
        if not self.grows:
            return self.act(x + y)
        pooled = self.pool(x)
        return self.act(torch.cat((pooled, y) if self.official else (y, pooled), 1))


class ShuffleNetV1(Backbone):
    """A 3x3 convolution, a pooling, three stages of units (table 1)."""

    def __init__(self, config: ShuffleNetV1Config) -> None:
        if config.order not in ("paper", "official"):
            raise NetworkError("order", config.order, "'paper' or 'official'")
        check_depths(config.depths, len(config.widths[1:]))
        channels = config.widths[0]
        stem = ConvNorm(config.in_chans, channels, 3, 2)
        stages = [Stage([], nn.MaxPool2d(3, stride=2, padding=1))]
        for index, (depth, width) in enumerate(zip(config.depths, config.widths[1:], strict=True)):
            units = []
            for i in range(depth):
                units.append(Unit(channels, width, 2 if i == 0 else 1, config, first=index + i == 0))
                channels = width
            stages.append(Stage(units))
        super().__init__(config, stem, stages, (config.widths[0], *config.widths), (2, 4, 8, 16, 32))


family = Family(
    ShuffleNetV1,
    paper="arXiv:1707.01083",
    source="megvii-model/ShuffleNet-Series",
    layouts=layouts.V1,
)

WIDTHS = {
    1: (144, 288, 576),
    2: (200, 400, 800),
    3: (240, 480, 960),
    4: (272, 544, 1088),
    8: (384, 768, 1536),
}
STEMS = {0.25: 6, 0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}
# groups, width: parameters, MACs in millions, where counted; top-1 error in the paper and in the repository
TABLE = (
    (1, 1.0, 1_530_936, 143.1, "L", 33.6, None),
    (1, 0.5, 533_484, 38.5, "L", 45.1, None),
    (1, 0.25, 208_746, 11.0, "L", 57.1, None),
    (2, 1.0, 1_732_848, 140.8, "L", 32.7, None),
    (2, 0.5, 642_932, 38.6, "O", 44.4, None),
    (2, 0.25, 266_026, 11.2, "O", 56.8, None),
    (3, 2.0, 5_449_776, 524.0, "C", 26.3, (25.9, 8.6)),
    (3, 1.5, 3_441_168, 292.4, "C", 28.5, (28.4, 9.8)),
    (3, 1.0, 1_864_728, 137.5, "C", 32.6, (32.2, 12.3)),
    (3, 0.5, 717_324, 37.6, "C", 43.2, (42.7, 20.0)),
    (3, 0.25, 304_902, 11.0, "L", 55.0, None),
    (4, 1.0, 1_967_344, 134.3, "L", 32.8, None),
    (4, 0.5, 777_040, 37.5, "O", 41.6, None),
    (4, 0.25, 338_252, 12.4, "O", 54.2, None),
    (8, 2.0, 6_521_232, 521.9, "C", None, (27.1, 9.2)),
    (8, 1.5, 4_268_952, 290.2, "C", None, (29.0, 10.4)),
    (8, 1.0, 2_433_768, 138.4, "C", 32.4, (32.0, 13.6)),
    (8, 0.5, 1_010_448, 40.5, "C", 42.3, (41.2, 19.0)),
    (8, 0.25, 453_504, 12.4, "O", 52.7, None),
)
for groups, width, parameters, mega_macs, counted, paper_error, official_errors in TABLE:
    stem = -(-STEMS[width] // groups) * groups  # 16, not 12, for 8 groups, as in the official code
    config = ShuffleNetV1Config(groups=groups, widths=(stem, *(int(width * c) for c in WIDTHS[groups])))
    name, size = f"shufflenet_v1_g{groups}_{round(100 * width):03}", (224, 224)
    family.add(name, config, Claims(parameters, mega_macs, size, counted, paper_error, stated="P"))
    if official_errors:
        official = replace(config, order="official")
        family.add(
            f"{name}_official", official, Claims(parameters, mega_macs, size, counted, *official_errors)
        )
