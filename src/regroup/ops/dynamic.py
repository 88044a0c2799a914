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
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.ops.layers import CONVOLUTIONS, CONVOLVE, NORMS, norm_act, pad_and_conv, per_channel
from regroup.ops.one_operator import is_one_operator
from regroup.ops.scripting import NotScriptable
from regroup.spec import ConvSpec, Extent

WEIGHT_COST, PIXEL_COST = 32, 8
"""What gathering a weight, or copying an input pixel, takes in MACs: measured on one core with AVX-512."""
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

GATHERED_WEIGHTS = 2**19
"""Weights to gather at a time: as many as the second-level cache holds (2 MiB in float32)."""


class Saliency(nn.Module):
    """Say how much each head needs each channel of each image: (N, C, *size) -> (N, heads, C), all >= 0.

    s_h = ReLU(V_h ReLU(U_h m) + b_h) with m the means of the channels. U_h has C / squeeze rows, and twice as
    many where C < 80. Source: Dynamic Group Convolution (arXiv:2007.04242), section 3.2, and its official
    code, which has `squeeze` = 16 and starts with b = 1.

    Args:
        channels: C.
        heads: number of heads.
        squeeze: ratio of channels to hidden units of a head.
        dims: spatial dimensions of the inputs.
    """

    def __init__(self, channels: int, heads: int, squeeze: int = 16, dims: int = 2) -> None:
        super().__init__()
        hidden, convolution = hidden_units(channels, squeeze), CONVOLUTIONS[dims - 1]
        self.axes = tuple(range(2, 2 + dims))
        self.reduce = convolution(channels, heads * hidden, 1, bias=False)
        self.expand = convolution(heads * hidden, heads * channels, 1, groups=heads)
        nn.init.kaiming_normal_(self.reduce.weight)
        nn.init.kaiming_normal_(self.expand.weight)
        nn.init.ones_(self.expand.bias)  # type: ignore[bad-argument-type]

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(self.axes, keepdim=True)
        return F.relu(self.expand(F.relu(self.reduce(means)))).view(x.shape[0], -1, x.shape[1])


def hidden_units(channels: int, squeeze: int) -> int:
    """Return the hidden units of one head of `Saliency`."""
    return max(1, channels // (squeeze // 2 if channels < 80 else squeeze))


def ranked(saliency: Tensor) -> Tensor:
    """Return the channels by falling saliency (last axis); of equal ones the first comes first."""
    if torch.onnx.is_in_onnx_export():  # its TopK takes the first of equal ones
        return saliency.topk(saliency.shape[-1], dim=-1).indices
    return torch.argsort(saliency, dim=-1, descending=True, stable=True)


def largest(saliency: Tensor, number: int) -> Tensor:
    """Return the first `number` of `ranked`, in any order: (..., number)."""
    fits = saliency.dtype in (torch.float32, torch.bfloat16, torch.float16)
    # neither TorchScript nor ONNX can say that bits are looked at
    if not fits or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return ranked(saliency)[..., :number]
    channels = saliency.shape[-1]
    # numbers that are not negative are in the order of their bits; below them, the first channel is largest
    bits = saliency.float().abs().view(torch.int32).long() << 32
    keys = bits | torch.arange(channels - 1, -1, -1, device=saliency.device)
    return keys.topk(number, dim=-1, sorted=False).indices


def scales_weights(spec: ConvSpec, heads: int, size: Extent) -> bool:
    """Tell whether an image has fewer weights to multiply by saliencies than inputs, a copy for each head."""
    weights, pixels = spec.out_channels * spec.taps, heads * math.prod(size)
    return WEIGHT_COST * weights < PIXEL_COST * pixels


def gathers(spec: ConvSpec, heads: int, kept: int, size: Extent) -> bool:
    """Tell whether gathering `kept` inputs for each head is quicker than multiplying the others by zero.

    On small maps it is not: gathering the weights of one image takes longer than using them.

    Args:
        spec: of the layer.
        heads: number of heads.
        kept: inputs that each head keeps.
        size: of the input.
    """
    weights = WEIGHT_COST * spec.out_channels * spec.taps
    pixels = PIXEL_COST * heads * math.prod(size)
    products = spec.out_channels * spec.taps * math.prod(spec.output_size(size))
    return kept * (products + weights + pixels) < spec.in_channels * (products + min(weights, pixels))


class DynamicGroupConv(NotScriptable, nn.Module):
    """[Batch norm, activation,] and a convolution whose heads each read those inputs that an image needs.

    Head h gives outputs h, h + heads, ...: y = sum over the `kept` channels c with the largest s_hc of
    W_kc * (s_hc x_c). Only these are multiplied, image by image, wherever that is quicker (`gathers`).
    Source: Dynamic Group Convolution (arXiv:2007.04242), section 3; the official code multiplies zeros.

    Shapes: (N, in_channels, *size) -> (N, out_channels, *out); `weight` is (heads * in_channels,
    out_channels / heads, *taps), so that the weights of one input lie together.

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
        self.norm = NORMS[spec.dims - 1](spec.in_channels) if norm else nn.Identity()
        self.act = norm_act(spec.in_channels, False, act)
        self.saliency = Saliency(spec.in_channels, heads, squeeze, spec.dims)
        whole = spec.with_channels(heads * spec.in_channels, spec.out_channels)
        self.pad, layer = pad_and_conv(whole, heads)
        self.padding: Extent = layer.padding  # type: ignore[bad-assignment]
        self.weight = nn.Parameter(packed(layer.weight.detach(), heads))
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(x))
        saliency = self.saliency(x)
        size = tuple(x.shape[2:])
        x = self.pad(x)
        if not torch.compiler.is_compiling() and is_one_operator():
            window = self.spec.stride, self.padding, self.spec.dilation
            return self._finished(
                torch.ops.regroup.dynamic_conv(x, saliency.flatten(1), self.weight, self.kept, *window)
            )
        exported = torch.onnx.is_in_onnx_export()  # for any number of images, which groups cannot depend on
        if self.kept < self.spec.in_channels:
            index = largest(saliency, self.kept)
            if not exported and gathers(self.spec, self.heads, self.kept, size):
                return self._finished(self._by_chunks(self._gathered, self.kept, x, saliency, index))
            kept = torch.zeros_like(saliency, dtype=torch.bool).scatter(2, index, 1)
            saliency = saliency.masked_fill(~kept, 0)
        if not exported and scales_weights(self.spec, self.heads, size):
            inputs = self.spec.in_channels
            return self._finished(self._by_chunks(self._with_scaled_weights, inputs, x, saliency))
        return self._finished(self._with_scaled_inputs(x, saliency))

    def _finished(self, y: Tensor) -> Tensor:
        """Shuffle the outputs, (N, heads * K / heads, *out), and add the bias."""
        y = y.unflatten(1, (self.heads, -1)).transpose(1, 2).flatten(1, 2)
        if self.bias is None:
            return y
        return y + per_channel(self.bias.view(self.heads, -1).t().reshape(-1), self.spec.dims)

    def _by_chunks(self, convolve: Callable[..., Tensor], inputs: int, *tensors: Tensor) -> Tensor:
        """Convolve as many images at a time as have weights for `inputs` inputs that fit in the cache."""
        at_once = max(1, GATHERED_WEIGHTS // (self.spec.out_channels * inputs * self.spec.taps))
        if len(tensors[0]) <= at_once:
            return convolve(*tensors)
        return torch.cat([convolve(*part) for part in zip(*(t.split(at_once) for t in tensors), strict=True)])

    def _gathered(self, x: Tensor, saliency: Tensor, index: Tensor) -> Tensor:
        """Convolve what is kept, each head of each image being a group of its own."""
        n, channels, *size = x.shape
        scale = per_channel(saliency.gather(2, index).flatten(), len(size))
        first = torch.arange(n, device=x.device)[:, None, None] * channels
        inputs = x.flatten(0, 1).index_select(0, (index + first).flatten())
        first = torch.arange(self.heads, device=x.device)[:, None] * channels
        weight = self.weight.index_select(0, (index + first).flatten())
        if scales_weights(self.spec, self.heads, tuple(size)):
            weight = weight * scale[:, None]
        else:
            inputs = inputs * scale
        weight = weight.unflatten(0, (n * self.heads, self.kept))
        return self._convolve(inputs[None], weight).unflatten(1, (n, -1)).flatten(0, 1)

    def _with_scaled_weights(self, x: Tensor, saliency: Tensor) -> Tensor:
        """Convolve all inputs of each image with weights of its own."""
        kernel = self._of_heads() * saliency.view(*saliency.shape, 1, *(1,) * self.spec.dims)
        kernel = kernel.transpose(2, 3).flatten(0, 2)
        return self._conv(x.flatten(0, 1)[None], kernel, len(x)).unflatten(1, (len(x), -1)).flatten(0, 1)

    def _with_scaled_inputs(self, x: Tensor, saliency: Tensor) -> Tensor:
        """Convolve, for all images at once, a copy of the inputs for each head."""
        copies = (x[:, None] * saliency.view(*saliency.shape, *(1,) * self.spec.dims)).flatten(1, 2)
        return self._convolve(copies, self._of_heads())

    def _of_heads(self) -> Tensor:
        """Return the weights as (heads, C, K / heads, *taps)."""
        return self.weight.unflatten(0, (self.heads, -1))

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve (B, G * inputs, *size) in G groups with weights (G, inputs, outputs, *taps).

        Where there are more weights than pixels, nothing must copy the weights into another order. A
        convolution backward takes them in theirs, and turned by half a turn: as the image is for it.

        Returns:
            (B, G * outputs, *out).
        """
        groups, spec = len(weight), self.spec
        if not torch.onnx.is_in_onnx_export() and spec.taps == 1 and max(self.padding) == 0 and len(x) == 1:
            pixels = x[0][(slice(None), *(slice(None, None, step) for step in spec.stride))]
            matrices = weight.flatten(2).transpose(1, 2)
            y = torch.bmm(matrices, pixels.flatten(1).unflatten(0, (groups, -1)))
            return y.flatten(0, 1).unflatten(1, pixels.shape[1:])[None]
        if self._keeps_size and not scales_weights(spec, self.heads, tuple(x.shape[2:])):
            axes, transposed = tuple(range(2, x.dim())), TRANSPOSED[spec.dims - 1]
            kernel, padding = weight.flatten(0, 1), self.padding
            y = transposed(x.flip(axes), kernel, None, 1, padding, 0, groups, spec.dilation)  # type: ignore[bad-argument-type]
            return y.flip(axes)
        return self._conv(x, weight.transpose(1, 2).flatten(0, 1), groups)

    def _conv(self, x: Tensor, kernel: Tensor, groups: int) -> Tensor:
        spec = self.spec
        function = CONVOLVE[spec.dims - 1]
        return function(x, kernel, None, spec.stride, self.padding, spec.dilation, groups)  # type: ignore[bad-argument-type]

    @property
    def _keeps_size(self) -> bool:
        spec = self.spec
        return set(spec.stride) == {1} and spec.span == tuple(2 * p for p in self.padding)

    def extra_repr(self) -> str:
        return f"{self.spec}, heads={self.heads}, kept={self.kept}"


@torch.library.custom_op(
    "regroup::dynamic_conv",
    mutates_args=(),
    schema="(Tensor x, Tensor saliency, Tensor weight, int kept, int[] stride, int[] padding, int[] dilation)"
    " -> Tensor",
)
def dynamic_conv(
    x: Tensor,
    saliency: Tensor,
    weight: Tensor,
    kept: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Convolve each image with its own kernel: zero but for the inputs that a head keeps, times saliencies.

    This is what `DynamicGroupConv` means, not how it runs.

    Args:
        x: (N, C, *size).
        saliency: (N, heads * C).
        weight: (heads * C, K / heads, *taps).
        kept: inputs that each head keeps.
        stride: of each dimension.
        padding: of each dimension.
        dilation: of each dimension.

    Returns:
        (N, K, *out), head after head.
    """
    scores = saliency.unflatten(1, (-1, x.shape[1]))
    index = largest(scores, kept)
    scores = torch.zeros_like(scores).scatter(2, index, scores.gather(2, index))
    kernels = weight.unflatten(0, (-1, x.shape[1])) * scores.view(*scores.shape, *(1,) * (x.dim() - 1))
    kernels, convolve = kernels.transpose(2, 3).flatten(1, 2), CONVOLVE[x.dim() - 3]
    images = zip(x.split(1), kernels, strict=True)
    return torch.cat([convolve(image, kernel, None, stride, padding, dilation) for image, kernel in images])  # type: ignore[bad-argument-type]


@dynamic_conv.register_fake
def _(x: Tensor, saliency: Tensor, weight: Tensor, kept: int, *geometry: Sequence[int]) -> Tensor:
    outputs = saliency.shape[1] // x.shape[1] * weight.shape[1]
    kernel = weight.new_empty(outputs, *x.shape[1:2], *weight.shape[2:])
    stride, padding, dilation = geometry
    return CONVOLVE[x.dim() - 3](x, kernel, None, stride, padding, dilation)  # type: ignore[bad-argument-type]


def packed(weight: Tensor, heads: int) -> Tensor:
    """Return a kernel (K, C, *taps) of `heads` heads as (heads * C, K / heads, *taps)."""
    return weight.unflatten(0, (heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()
