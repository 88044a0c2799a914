"""The blocks that octave networks share: what flows through them is a pair, high and low."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import NetworkError
from regroup.networks.backbone import Config
from regroup.spec import ConvSpec
from regroup.strategies.octave import OctaveConv, OctaveNormAct, Pair, octaves


@dataclass(frozen=True, kw_only=True)
class OctaveConfig(Config):
    """What every octave network can be told.

    Args:
        alpha: share of low channels, in the blocks that have any.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < 1:
            raise NetworkError("alpha", self.alpha, "at least 0 and below 1")


class OctaveConvNorm(nn.Module):
    """Octave convolution, then batch norm and activation on each octave: pair in, pair out.

    Args:
        in_channels: of both octaves.
        out_channels: of both octaves.
        kernel_size: odd.
        stride: 1 or 2.
        alphas: share of low channels in input and output.
        groups: of each path; as many as channels is depthwise.
        act: a name of `ACTIVATIONS`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        alphas: tuple[float, float],
        groups: int = 1,
        act: str = "relu",
    ) -> None:
        super().__init__()
        spec = ConvSpec(in_channels, out_channels, 1, stride).with_kernel(kernel_size)
        self.conv = OctaveConv(spec, *alphas, groups)
        self.norm = OctaveNormAct(out_channels, alphas[1], act=act)

    def forward(self, pair: Pair) -> Pair:
        return self.norm(self.conv(pair))


class Unchanged(nn.Module):
    """The identity of a pair; FX does not look into nn.Identity and would not see the pair."""

    def forward(self, pair: Pair) -> Pair:
        return pair


class OctaveStandardise(nn.Module):
    """Batch norm without weights, on each octave by itself."""

    def __init__(self, channels: int, alpha: float) -> None:
        super().__init__()
        high, low = octaves(channels, alpha)
        self.high = nn.BatchNorm2d(high, affine=False)
        self.low = nn.BatchNorm2d(low, affine=False) if low else None

    def forward(self, pair: Pair) -> Pair:
        high, low = pair
        return self.high(high), None if self.low is None else self.low(low)


class OctaveSqueeze(nn.Module):
    """Squeeze and excite for a pair: gates of both octaves from the means of both."""

    def __init__(self, channels: int, alpha: float, hidden: int) -> None:
        super().__init__()
        high, low = octaves(channels, alpha)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand_high = nn.Conv2d(hidden, high, 1)
        self.expand_low = nn.Conv2d(hidden, low, 1) if low else None

    def forward(self, pair: Pair) -> Pair:
        means = [x.mean((2, 3), keepdim=True) for x in pair if x is not None]
        hidden = F.relu(self.reduce(torch.cat(means, 1)))
        high, low = pair
        high = high * self.expand_high(hidden).sigmoid()
        if low is None or self.expand_low is None:
            return high, None
        return high, low * self.expand_low(hidden).sigmoid()


class OctaveNormConv(nn.Module):
    """Batch norm and ReLU on each octave, then an octave convolution: pair in, pair out.

    Args:
        in_channels: of both octaves.
        out_channels: of both octaves.
        kernel_size: odd.
        stride: 1 or 2.
        alphas: share of low channels in input and output.
        groups: of each path.
        eps: of the batch norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        alphas: tuple[float, float],
        groups: int = 1,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm = OctaveNormAct(in_channels, alphas[0], eps=eps)
        spec = ConvSpec(in_channels, out_channels, 1, stride).with_kernel(kernel_size)
        self.conv = OctaveConv(spec, *alphas, groups)

    def forward(self, pair: Pair) -> Pair:
        return self.conv(self.norm(pair))


class OctaveBottleneckV2(nn.Module):
    """1x1, 3x3 and 1x1 on pairs, a gate, and a shortcut, which has a convolution in each stage's first block.

    Args:
        in_channels: of both octaves.
        width: base width; gives four times as many channels.
        stride: of the 3x3 convolution.
        alphas: share of low channels in input and output.
        config: says groups, group width, squeeze and eps.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        alphas: tuple[float, float],
        config: Any,
    ) -> None:
        super().__init__()
        middle, out_channels = width * config.group_width // 64 * config.groups, 4 * width
        inner, eps = (alphas[1], alphas[1]), config.eps
        self.conv1 = OctaveNormConv(in_channels, middle, alphas=alphas, eps=eps)
        self.conv2 = OctaveNormConv(middle, middle, 3, stride, alphas=inner, groups=config.groups, eps=eps)
        self.conv3 = OctaveNormConv(middle, out_channels, alphas=inner, eps=eps)
        self.squeeze = Unchanged()
        if config.squeeze:
            self.squeeze = OctaveSqueeze(out_channels, alphas[1], out_channels // 16)
        self.shortcut = Unchanged()
        if stride > 1 or in_channels != out_channels or alphas[0] != alphas[1]:
            self.shortcut = OctaveNormConv(in_channels, out_channels, 1, stride, alphas=alphas, eps=eps)

    def forward(self, x: Pair | Tensor) -> Pair:
        pair = x if isinstance(x, tuple) else (x, None)
        high, low = self.squeeze(self.conv3(self.conv2(self.conv1(pair))))
        past_high, past_low = self.shortcut(pair)
        return high + past_high, None if low is None else low + past_low
