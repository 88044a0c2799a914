"""Layers that choose their inputs anew for every image: dynamic group convolution as it runs when deployed.

>>> layer = DynamicGroupConv(ConvSpec(16, 8, 3, padding=1), heads=2, kept=4)
>>> layer(torch.randn(1, 16, 10, 10)).shape
torch.Size([1, 8, 10, 10])
>>> from regroup.ops.counting import count_macs
>>> x = torch.randn(1, 16, 10, 10)
>>> count_macs(layer, x) - count_macs(layer.saliency, x)
28800

That is 8 outputs x 4 kept inputs x 9 taps x 100 pixels: only what is kept is multiplied.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.ops.layers import crop_and_conv, norm_act
from regroup.ops.order import ChannelShuffle
from regroup.spec import ConvSpec, Size

WEIGHT_COST, PIXEL_COST = 32, 8
"""What gathering a weight, or copying an input pixel, takes in MACs: measured on one core with AVX-512."""
GATHERED_WEIGHTS = 2**19
"""Weights to gather at a time: as many as the second-level cache holds (2 MiB in float32)."""


class Saliency(nn.Module):
    """Say how much each head needs each channel of each image: (N, C, H, W) -> (N, heads, C), all >= 0.

    s_h = ReLU(V_h ReLU(U_h m) + b_h) with m the means of the channels. U_h has C / squeeze rows, and twice as
    many where C < 80. Source: Dynamic Group Convolution (arXiv:2007.04242), section 3.2, and its official
    code, which has `squeeze` = 16 and starts with b = 1.

    Args:
        channels: C.
        heads: number of heads.
        squeeze: ratio of channels to hidden units of a head.
    """

    def __init__(self, channels: int, heads: int, squeeze: int = 16) -> None:
        super().__init__()
        hidden = hidden_units(channels, squeeze)
        self.reduce = nn.Conv2d(channels, heads * hidden, 1, bias=False)
        self.expand = nn.Conv2d(heads * hidden, heads * channels, 1, groups=heads)
        nn.init.kaiming_normal_(self.reduce.weight)
        nn.init.kaiming_normal_(self.expand.weight)
        nn.init.ones_(self.expand.bias)  # type: ignore[bad-argument-type]

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return F.relu(self.expand(F.relu(self.reduce(means)))).view(x.shape[0], -1, x.shape[1])


def hidden_units(channels: int, squeeze: int) -> int:
    """Return the hidden units of one head of `Saliency`."""
    return max(1, channels // (squeeze // 2 if channels < 80 else squeeze))


def ranked(saliency: Tensor) -> Tensor:
    """Return the channels by falling saliency (last axis); of equal ones the first comes first."""
    return torch.argsort(saliency, dim=-1, descending=True, stable=True)


def gathers(spec: ConvSpec, heads: int, kept: int, size: Size) -> bool:
    """Tell whether gathering `kept` inputs for each head is quicker than multiplying the others by zero.

    On small maps it is not: gathering the weights of one image takes longer than using them.

    Args:
        spec: of the layer.
        heads: number of heads.
        kept: inputs that each head keeps.
        size: (height, width) of the input.
    """
    weights = spec.out_channels * spec.taps
    zeros = weights * math.prod(spec.output_size(size)) + PIXEL_COST * heads * math.prod(size)
    return kept * (zeros + WEIGHT_COST * weights) < spec.in_channels * zeros


class DynamicGroupConv(nn.Module):
    """[Batch norm, activation,] and a convolution whose heads each read those inputs that an image needs.

    Head h gives outputs h, h + heads, ...: y = sum over the `kept` channels c with the largest s_hc of
    W_kc * (s_hc x_c). Only these are multiplied, image by image, wherever that is quicker (`gathers`).
    Source: Dynamic Group Convolution (arXiv:2007.04242), section 3; the official code multiplies zeros.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, P, Q); `weight` is (heads * in_channels,
    out_channels / heads, R, S), so that the weights of one input lie together.

    Args:
        spec: of the layer as seen from outside.
        heads: number of heads; divides out_channels.
        kept: inputs that each head keeps.
        squeeze: see `Saliency`.
        norm: batch norm before all else.
        act: activation after it, a name of `ACTIVATIONS`.

    Raises:
        SpecError: heads do not divide the outputs, or `kept` is not within 1 ... in_channels.
    """

    def __init__(
        self, spec: ConvSpec, heads: int, kept: int, squeeze: int = 16, norm: bool = False, act: str = "none"
    ) -> None:
        super().__init__()
        if not 1 <= kept <= spec.in_channels:
            raise SpecError("kept", kept, f"within 1 ... in_channels={spec.in_channels}")
        self.spec, self.heads, self.kept = spec, heads, kept
        self.norm = nn.BatchNorm2d(spec.in_channels) if norm else nn.Identity()
        self.act = norm_act(spec.in_channels, False, act)
        self.saliency = Saliency(spec.in_channels, heads, squeeze)
        whole = spec.with_channels(heads * spec.in_channels, spec.out_channels)
        self.crop, layer = crop_and_conv(whole, heads)
        self.padding = layer.padding
        self.weight = nn.Parameter(packed(layer.weight.detach(), heads))
        self.bias = layer.bias
        self.shuffle = ChannelShuffle(heads)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(x))
        saliency = self.saliency(x)
        size = x.shape[2], x.shape[3]
        x = self.crop(x)
        if self.kept < self.spec.in_channels and gathers(self.spec, self.heads, self.kept, size):
            index = ranked(saliency)[..., : self.kept].sort(-1).values
            at_once = max(1, GATHERED_WEIGHTS // (self.spec.out_channels * self.kept * self.spec.taps))
            parts = zip(x.split(at_once), saliency.split(at_once), index.split(at_once), strict=True)
            y = torch.cat([self._gathered(*part) for part in parts])
        else:
            y = self._masked(x, saliency)
        return self.shuffle(y if self.bias is None else y + self.bias[:, None, None])

    def _masked(self, x: Tensor, saliency: Tensor) -> Tensor:
        """Convolve all images at once, with what is dropped multiplied by zero."""
        if self.kept < self.spec.in_channels:
            saliency = saliency.scatter(2, ranked(saliency)[..., self.kept :], 0)
        copies = (x[:, None] * saliency[..., None, None]).flatten(1, 2)
        weight = self.weight.unflatten(0, (self.heads, -1)).transpose(1, 2).flatten(0, 1)
        return F.conv2d(copies, weight, None, self.spec.stride, self.padding, self.spec.dilation, self.heads)

    def _gathered(self, x: Tensor, saliency: Tensor, index: Tensor) -> Tensor:
        """Convolve some images, each head of each image being a group of its own."""
        n, channels, height, width = x.shape
        groups = n * self.heads
        first = torch.arange(n, device=x.device)[:, None, None] * channels
        inputs = x.flatten(0, 1).index_select(0, (index + first).flatten())
        inputs = inputs * saliency.gather(2, index).view(-1, 1, 1)
        first = torch.arange(self.heads, device=x.device)[:, None] * channels
        weight = self.weight.index_select(0, (index + first).flatten())
        weight = weight.unflatten(0, (groups, self.kept)).transpose(1, 2)
        stride, padding = self.spec.stride, self.padding
        if self.spec.taps == 1 and max(padding) == 0:
            pixels = inputs[:, :: stride[0], :: stride[1]]
            y = torch.bmm(weight.flatten(2), pixels.reshape(groups, self.kept, -1))
            return y.view(n, self.spec.out_channels, *pixels.shape[1:])
        inputs = inputs.view(1, groups * self.kept, height, width)
        y = F.conv2d(inputs, weight.flatten(0, 1), None, stride, padding, self.spec.dilation, groups)
        return y.view(n, self.spec.out_channels, *y.shape[2:])

    def extra_repr(self) -> str:
        return f"{self.spec}, heads={self.heads}, kept={self.kept}"


def packed(weight: Tensor, heads: int) -> Tensor:
    """Return a kernel (K, C, R, S) of `heads` heads as (heads * C, K / heads, R, S)."""
    return weight.unflatten(0, (heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()
