"""The blocks that octave networks share: what flows through them is a pair, high and low."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
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
