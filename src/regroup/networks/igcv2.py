"""IGCV2 (arXiv:1804.06202): every convolution is a depthwise one and several sparse 1x1 ones that interleave.

The authors published no code. What the paper fixes is here: depth 3 B + 2, channels doubling from stage to
stage, about 8 channels in a group, each input reaching each output on exactly one path, batch norm and ReLU
at the end of a block only. How channel numbers that are no power of 8 are factored is our choice; it gives
the published 0.65 M parameters, the classifier left out. Widths of ImageNet networks were not published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.igcv1 import fan_in_normal
from regroup.networks.skeletons import ResNetLike
from regroup.spec import ConvSpec, divisors
from regroup.strategies.interleaved import InterleavedConv


@dataclass(frozen=True, kw_only=True)
class IGCV2Config(Config):
    """Numbers of an IGCV2 network for small images.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage; the stem has those of the first.
        group_width: about how many channels a group of a 1x1 convolution has.
        small: for small images: a 3x3 stem with stride 1 and no pooling.
    """

    depths: tuple[int, ...] = (6, 6, 6)
    widths: tuple[int, ...] = (416, 832, 1664)
    group_width: int = 8
    small: bool = True


def balanced(channels: int, count: int) -> tuple[int, ...]:
    """Return `count` factors of `channels` with the least sum, the smallest first.

    >>> balanced(416, 3)
    (4, 8, 13)
    """
    if count == 1:
        return (channels,)
    found = [(d, *balanced(channels // d, count - 1)) for d in divisors(channels) if d**count <= channels]
    return tuple(sorted(min(found, key=sum)))


class SparseProduct(nn.Module):
    """Depthwise 3x3, then 1x1 in crossing groups, as many as it takes for groups of `group_width`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        count = max(1, math.ceil(math.log(in_channels, group_width) - 1e-9))
        widths = [(1, 1), *((w, w) for w in balanced(in_channels, count))]
        widths[-1] = widths[-1][0], widths[-1][1] * out_channels // in_channels
        self.conv = InterleavedConv(ConvSpec(in_channels, out_channels, 3, stride, 1), widths)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class IGCV2(ResNetLike):
    """A ResNet whose blocks are sparse products, without shortcuts."""

    def __init__(self, config: IGCV2Config) -> None:
        def block(in_channels: int, stage: int, index: int, stride: int) -> nn.Module:
            return SparseProduct(in_channels, config.widths[stage], stride, config.group_width)

        super().__init__(config, config.widths[0], config.widths, block)

    def init_weights(self) -> None:
        """Start as IGCV1 does."""
        fan_in_normal(self)


family = Family(IGCV2, paper="arXiv:1804.06202", source="none published")

family.add(
    "igcv2_20_c416",
    IGCV2Config(num_classes=100),
    Claims(814_628, 162.5, size=(32, 32), counted="O", top1_error=22.95, stated="S", data="CIFAR-100"),
)
