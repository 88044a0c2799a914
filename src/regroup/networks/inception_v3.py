"""Inception v3 (arXiv:1512.00567): wide kernels factored into narrow ones, n x n into 1 x n and n x 1.

It follows TensorFlow's code, as torchvision does: the modules of the 35x35 maps keep a 5x5 branch where
figure 5 of the paper has two 3x3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import Branches, ConvNorm, Stage
from regroup.networks.layouts import googlenet as layouts
from regroup.networks.skeletons import Supervised

Unit = partial(ConvNorm, eps=1e-3)


@dataclass(frozen=True, kw_only=True)
class InceptionConfig(Config):
    """Numbers of an Inception v3.

    Args:
        pooled: channels of the pooling branch in the three modules of the 35x35 maps.
        sevens: channels inside the 7x7 branches in the four modules of the 17x17 maps.
        aux: an auxiliary head behind the 17x17 maps; in training the model then gives (logits, its logits).
    """

    pooled: tuple[int, ...] = (32, 64, 64)
    sevens: tuple[int, ...] = (128, 160, 160, 192)
    aux: bool = False
    drop_rate: float = 0.5


def chain(channels: int, *units: tuple[int, int | tuple[int, int]], stride: int = 1) -> nn.Sequential:
    """Return convolutions (out_channels, kernel_size) in a row; a stride is the last one's, unpadded."""
    layers = []
    for index, (out, kernel_size) in enumerate(units):
        last = stride > 1 and index == len(units) - 1
        layers.append(Unit(channels, out, kernel_size, stride if last else 1, padding=0 if last else None))
        channels = out
    return nn.Sequential(*layers)


def pooled(channels: int, out_channels: int) -> nn.Sequential:
    """Return a 3x3 average pooling and a 1x1 convolution."""
    return nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), Unit(channels, out_channels))


def fine(channels: int, pool: int) -> Branches:
    """Return a module of the 35x35 maps: 1x1, 5x5, two 3x3, pooling."""
    single, double = chain(channels, (48, 1), (64, 5)), chain(channels, (64, 1), (96, 3), (96, 3))
    return Branches([chain(channels, (64, 1)), single, double, pooled(channels, pool)])


def fine_to_middle(channels: int) -> Branches:
    """Return the module that halves 35x35 to 17x17."""
    double = chain(channels, (64, 1), (96, 3), (96, 3), stride=2)
    return Branches([chain(channels, (384, 3), stride=2), double, nn.MaxPool2d(3, stride=2)])


def middle(channels: int, c: int) -> Branches:
    """Return a module of the 17x17 maps: 1x1, 7x7 as 1x7 and 7x1, twice that, pooling."""
    row, column = (1, 7), (7, 1)
    single = chain(channels, (c, 1), (c, row), (192, column))
    double = chain(channels, (c, 1), (c, column), (c, row), (c, column), (192, row))
    return Branches([chain(channels, (192, 1)), single, double, pooled(channels, 192)])


def middle_to_coarse(channels: int) -> Branches:
    """Return the module that halves 17x17 to 8x8."""
    threes = chain(channels, (192, 1), (320, 3), stride=2)
    sevens = chain(channels, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), stride=2)
    return Branches([threes, sevens, nn.MaxPool2d(3, stride=2)])


def coarse(channels: int) -> Branches:
    """Return a module of the 8x8 maps: 1x1, 3x3 as 1x3 beside 3x1, the same behind a 3x3, pooling."""

    def fan(*units: tuple[int, int]) -> nn.Sequential:
        pair = Branches([Unit(384, 384, (1, 3)), Unit(384, 384, (3, 1))])
        return nn.Sequential(*chain(channels, *units), pair)

    double = fan((448, 1), (384, 3))
    return Branches([chain(channels, (320, 1)), fan((384, 1)), double, pooled(channels, 192)])


class AuxiliaryHead(nn.Module):
    """Pool, 1x1, 5x5 and a classifier on the 17x17 maps."""

    def __init__(self, config: InceptionConfig) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, stride=3)
        self.convs = nn.Sequential(Unit(768, 128), Unit(128, 768, 5, padding=0))
        self.classifier = nn.Linear(768, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.convs(self.pool(x)).mean((2, 3)))


class InceptionV3(Supervised):
    """Unpadded stem, then modules at 35x35, 17x17 and 8x8 for an image of 299x299."""

    min_size = 75

    def __init__(self, config: InceptionConfig) -> None:
        head = [Unit(config.in_chans, 32, 3, 2, padding=0), Unit(32, 32, 3, padding=0), Unit(32, 64, 3)]
        fines = [fine(c, p) for c, p in zip(_widths(192, config.pooled), config.pooled, strict=True)]
        channels = 224 + config.pooled[-1]
        middles = [fine_to_middle(channels), *(middle(480 + channels, c) for c in config.sevens)]
        stages = [
            Stage([Unit(64, 80), Unit(80, 192, 3, padding=0)], nn.MaxPool2d(3, stride=2)),
            Stage(fines, nn.MaxPool2d(3, stride=2)),
            Stage(middles),
            Stage([middle_to_coarse(768), coarse(1280), coarse(2048)]),
        ]
        super().__init__(
            config,
            nn.Sequential(*head),
            stages,
            (64, 192, channels, 768, 2048),
            (2, 4, 8, 16, 32),
            heads={f"2_{len(config.sevens)}": AuxiliaryHead(config)} if config.aux else {},
        )
        if config.aux:
            self.min_size = 299  # the head's 5x5 kernel needs the whole map

    def init_layer(self, layer: nn.Module) -> None:
        """As torchvision: truncated normal, 0.1."""
        super().init_layer(layer)
        if isinstance(layer, nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.1)


def _widths(first: int, pools: Iterable[int]) -> list[int]:
    """Channels into each fine module: 224 from the convolutions of the one before, and its pooling branch."""
    return [first, *(224 + p for p in pools)][:-1]


family = Family(
    InceptionV3,
    paper="arXiv:1512.00567",
    source="pytorch/vision",
    layouts=layouts.INCEPTION_V3,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pool_size=(8, 8),
)

family.add(
    "inception_v3",
    InceptionConfig(),
    Claims(23_834_568, 5713.2, (299, 299), "L", 22.706, 6.55, "L"),
    pretrained="torchvision:Inception_V3_Weights.IMAGENET1K_V1",
)
