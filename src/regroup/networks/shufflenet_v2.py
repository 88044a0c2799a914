"""ShuffleNet V2 (arXiv:1807.11164): half the channels pass by, and a shuffle mixes the halves.

`shufflenet_v2_100` is the paper's network, as torchvision has it. In the authors' code, `..._official`, the
unit that halves the size splits its channels unevenly, and the halves are the even and the odd channels
before a unit, where the paper shuffles after it.
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
class ShuffleNetV2Config(Config):
    """Numbers of a ShuffleNet V2.

    Args:
        widths: channels of the stem, the stages and the last 1x1 convolution; all but the first even.
        depths: units of each stage.
        uneven: where the size halves, as many channels pass as come in, instead of half the output's.
        order: 'paper': shuffle after each unit; 'official': take even and odd channels before each unit.
        bias: of the classifier; the official one has none.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...] = (4, 8, 4)
    uneven: bool = False
    order: str = "paper"
    bias: bool = True


class Unit(nn.Module):
    """Half the channels through 1x1, 3x3 depthwise and 1x1, the other half past them (figure 3c and d)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ShuffleNetV2Config) -> None:
        super().__init__()
        half = out_channels // 2
        self.halves = stride == 1
        passing = in_channels if config.uneven and stride == 2 else half
        self.split = nn.Identity()
        if stride == 2:
            self.passing = nn.Sequential(
                ConvNorm(in_channels, in_channels, 3, 2, groups=in_channels, act="none"),
                ConvNorm(in_channels, passing),
            )
        elif config.order == "official":
            self.split = ChannelShuffle(half)  # even channels, then odd ones
        self.branch = nn.Sequential(
            ConvNorm(in_channels if stride == 2 else half, half),
            ConvNorm(half, half, 3, stride, groups=half, act="none"),
            ConvNorm(half, out_channels - passing),
        )
        self.shuffle = ChannelShuffle(2) if config.order == "paper" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            past, y = self.split(x).chunk(2, 1)
        else:
            past, y = self.passing(x), x
        return self.shuffle(torch.cat((past, self.branch(y)), 1))


class ShuffleNetV2(Backbone):
    """A 3x3 convolution, a pooling, three stages of units, a 1x1 convolution (table 5)."""

    def __init__(self, config: ShuffleNetV2Config) -> None:
        if config.order not in ("paper", "official"):
            raise NetworkError("order", config.order, "'paper' or 'official'")
        odd = [width for width in config.widths[1:-1] if width % 2]
        if odd:
            raise NetworkError(
                "widths", config.widths, "even from the second on, to be halved", f"change {odd[0]}"
            )
        check_depths(config.depths, len(config.widths[1:-1]))
        channels = config.widths[0]
        stem = ConvNorm(config.in_chans, channels, 3, 2)
        stages = [Stage([], nn.MaxPool2d(3, stride=2, padding=1))]
        for depth, width in zip(config.depths, config.widths[1:-1], strict=True):
            first = Unit(channels, width, 2, config)
            stages.append(Stage([first, *(Unit(width, width, 1, config) for _ in range(depth - 1))]))
            channels = width
        super().__init__(
            config,
            stem,
            stages,
            (config.widths[0], *config.widths[:-1]),
            (2, 4, 8, 16, 32),
            tail=ConvNorm(channels, config.widths[-1]),
            num_features=config.widths[-1],
        )


family = Family(
    ShuffleNetV2,
    paper="arXiv:1807.11164",
    source="megvii-model/ShuffleNet-Series",
    layouts=layouts.V2,
)

# width: channels, counts and errors of torchvision, counts and errors of the official code
for width, widths, counts, errors, official_counts, official_errors in (
    (0.5, (48, 96, 192, 1024), (1_366_792, 40.5), (39.448, 18.254), (1_365_792, 40.5), (38.9, 17.4)),
    (1.0, (116, 232, 464, 1024), (2_278_604, 144.9), (30.638, 11.684), (2_278_760, 145.8), (30.6, 11.1)),
    (1.5, (176, 352, 704, 1024), (3_503_624, 295.8), (27.004, None), (3_506_720, 299.0), (27.4, 9.4)),
    (2.0, (244, 488, 976, 2048), (7_393_996, 583.3), (23.77, None), (7_402_600, 590.8), (25.0, 7.6)),
):
    name, size = f"shufflenet_v2_{round(100 * width):03}", (224, 224)
    config = ShuffleNetV2Config(widths=(24, *widths), drop_rate=0.2 if width == 2 else 0.0)
    family.add(
        name,
        config,
        Claims(*counts, size, "L", *errors, "L"),
        pretrained=f"torchvision:ShuffleNet_V2_X{str(width).replace('.', '_')}_Weights.IMAGENET1K_V1",
    )
    official = replace(config, uneven=True, order="official", bias=False)
    family.add(f"{name}_official", official, Claims(*official_counts, size, "C", *official_errors))
