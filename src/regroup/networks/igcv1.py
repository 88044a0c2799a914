"""IGCNets (arXiv:1707.02725): every convolution is a primary and a secondary one whose groups interleave.

Names give L and M: L primary partitions of M channels each, at the start; where the channels double, M does,
but in L100M2 L does. Where the official CIFAR code departs from the paper (where channels double, it has half
as many secondary partitions as there are channels in a primary one), the paper is followed. The official
weights are MXNet's, which cannot be read without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import ConvNorm
from regroup.networks.skeletons import ResNetLike
from regroup.spec import ConvSpec
from regroup.strategies.interleaved import InterleavedConv

EPS = 2e-5
"""Of the batch norms, in all networks of the official repository."""


@dataclass(frozen=True, kw_only=True)
class IGCV1Config(Config):
    """Numbers of an IGCNet.

    Args:
        depths: blocks of each stage.
        widths: channels of the stem, then of each stage.
        primary: primary partitions of each stage; must divide its channels.
        residual: blocks of two convolutions and a shortcut, instead of one convolution.
        small: for small images: a 3x3 stem with stride 1 and no pooling.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    primary: tuple[int, ...]
    residual: bool = True
    small: bool = False


class InterleavedNorm(nn.Module):
    """3x3 in `primary` groups, 1x1 in the groups that cross them, batch norm, and a ReLU if `act`."""

    def __init__(
        self, in_channels: int, out_channels: int, primary: int, stride: int, act: bool = True
    ) -> None:
        super().__init__()
        if in_channels % primary or out_channels % primary:
            allowed = f"a divisor of {in_channels} and {out_channels} channels"
            raise NetworkError("primary", primary, allowed)
        widths = [(in_channels // primary, out_channels // primary), (primary, primary)]
        self.conv = InterleavedConv(ConvSpec(in_channels, out_channels, 3, stride, 1), widths)
        self.norm = nn.BatchNorm2d(out_channels, eps=EPS)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class InterleavedBlock(nn.Module):
    """Two interleaved convolutions and a shortcut, grouped like the primary ones where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, primary: int, stride: int) -> None:
        super().__init__()
        self.conv1 = InterleavedNorm(in_channels, out_channels, primary, stride)
        self.conv2 = InterleavedNorm(out_channels, out_channels, primary, 1, act=False)
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = ConvNorm(
                in_channels, out_channels, stride=stride, groups=primary, act="none", eps=EPS
            )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.conv1(x)) + self.shortcut(x))


class IGCV1(ResNetLike):
    """A ResNet of interleaved blocks, or of interleaved convolutions."""

    def __init__(self, config: IGCV1Config) -> None:
        kind = InterleavedBlock if config.residual else InterleavedNorm
        channels, *outs = config.widths
        if len(config.primary) != len(outs):
            raise NetworkError("primary", config.primary, f"{len(outs)} numbers, one for each stage")

        def block(in_channels: int, stage: int, index: int, stride: int) -> nn.Module:
            return kind(in_channels, outs[stage], config.primary[stage], stride)

        super().__init__(config, channels, outs, block, eps=EPS)

    def init_weights(self) -> None:
        """Start as the official code does: normal, with the variance 2 / (inputs of one output)."""
        fan_in_normal(self)


def fan_in_normal(model: nn.Module) -> None:
    """Start every convolution so that no number of sparse factors makes signals vanish."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))


family = Family(IGCV1, paper="arXiv:1707.02725", source="hellozting/InterleavedGroupConvolutions")

for name, widths, primary, counts, errors in (
    ("l100m2", (100, 200, 400, 800, 1600), (100, 200, 400, 800), (8_637_900, 1264.8), (26.95, 8.92)),
    ("l16m16", (256, 256, 512, 1024, 2048), (16,) * 4, (13_528_296, 2266.0), (29.40, 10.32)),
    ("l4m32", (128, 128, 256, 512, 1024), (4,) * 4, (12_251_240, 1944.6), (30.77, 10.99)),
):
    family.add(
        f"igcv1_18_{name}",
        IGCV1Config(depths=(2, 2, 2, 2), widths=widths, primary=primary),
        Claims(*counts, top1_error=errors[0], top5_error=errors[1]),
    )

# The repository states no errors for these, and we could not read the paper's table: none is quoted.
for primary, width, counts in (
    (16, 32, (17_697_290, 2685.9)),
    (32, 26, (24_055_626, 3720.6)),
    (450, 2, (19_055_710, 4663.3)),
):
    base = primary * width
    family.add(
        f"igcv1_20_l{primary}m{width}",
        IGCV1Config(
            depths=(3, 3, 3),
            widths=(base, base, 2 * base, 4 * base),
            primary=(primary,) * 3,
            small=True,
            num_classes=10,
        ),
        Claims(*counts, size=(32, 32), counted="O", data="CIFAR-10"),
    )

family.add(
    "igcv1_plain38_l24m2",
    IGCV1Config(
        depths=(12, 12, 12),
        widths=(48, 48, 96, 192),
        primary=(24,) * 3,
        residual=False,
        small=True,
        num_classes=10,
    ),
    Claims(317_242, 57.1, size=(32, 32), counted="O", data="CIFAR-10"),
)
