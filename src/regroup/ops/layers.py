"""Small modules that every strategy and network is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.ops.order import inverse
from regroup.spec import ConvSpec, Extent, divisors

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "none": nn.Identity,
}


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""PyTorch's modules of one, two and three dimensions."""

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)


class Pad(nn.Module):
    """Put zeros around (N, C, *size), or crop where a number is negative.

    Args:
        sides: (before, after) of each dimension.
    """

    def __init__(self, sides: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.numbers = flat(sides)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.numbers)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.numbers))


def flat(sides: Sequence[tuple[int, int]]) -> list[int]:
    """Return (before, after) of each dimension as `torch.nn.functional.pad` takes them, the last first."""
    return [number for side in reversed(sides) for number in side]


class OnTokens(nn.Module):
    """Apply a layer of one dimension to tokens: (N, ..., C) -> (N, ..., K), as a linear layer takes them.

    Args:
        layer: (N, C, L) -> (N, K, L).
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(-2)
        y = self.layer(tokens.transpose(-1, -2)).transpose(-1, -2)
        return y.reshape(*x.shape[:-1], y.shape[-1])


class Concat(nn.ModuleList):
    """Run branches beside each other on the same input and concatenate their channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


def conv(spec: ConvSpec, groups: int = 1) -> nn.Module:
    """Return the convolution of `spec` in `groups` groups: nn.Conv1d, 2d or 3d, perhaps after a `Pad`.

    Raises:
        SpecError: `groups` does not divide the channels.
    """
    pad, layer = pad_and_conv(spec, groups)
    return nn.Sequential(pad, layer) if isinstance(pad, Pad) else layer


def pad_and_conv(spec: ConvSpec, groups: int = 1) -> tuple[Pad | nn.Identity, Convolution]:
    """Return what `conv` is made of: the padding that no convolution has, or nothing, and the convolution.

    Raises:
        SpecError: `groups` does not divide the channels.
    """
    allowed = divisors(spec.in_channels, spec.out_channels)
    if groups not in allowed:
        raise SpecError(
            "groups",
            groups,
            f"a divisor of in_channels={spec.in_channels} and out_channels={spec.out_channels}",
            f"use one of {', '.join(map(str, allowed))}",
        )
    own, rest = split_padding(spec)
    layer = CONVOLUTIONS[spec.dims - 1](
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,  # type: ignore[bad-argument-type]
        spec.stride,  # type: ignore[bad-argument-type]
        own,  # type: ignore[bad-argument-type]
        spec.dilation,  # type: ignore[bad-argument-type]
        groups,
        spec.bias,
    )
    return Pad(rest) if any(map(any, rest)) else nn.Identity(), layer


def split_padding(spec: ConvSpec) -> tuple[Extent, list[tuple[int, int]]]:
    """Return the zeros that a convolution itself adds to both sides, and what is left of (before, after)."""
    own = tuple(max(0, min(sides)) for sides in zip(spec.before, spec.after, strict=True))
    axes = zip(own, spec.before, spec.after, strict=True)
    return own, [(before - both, after - both) for both, before, after in axes]


def convolution_of(layer: nn.Module) -> Convolution:
    """Return the convolution in what `conv` made."""
    (found,) = (m for m in layer.modules() if isinstance(m, CONVOLUTIONS))
    return found


def give(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    """Give what `conv` made a kernel, of any shape with as many numbers, and a bias (zeros if None)."""
    convolution = convolution_of(layer)
    with torch.no_grad():
        convolution.weight.copy_(weight.reshape(convolution.weight.shape))
        if convolution.bias is not None:
            convolution.bias.copy_(torch.zeros(len(convolution.bias)) if bias is None else bias)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, spec: ConvSpec, groups: int = 1) -> Tensor:
    """Convolve as `spec` says with a given kernel; negative padding crops."""
    own, rest = split_padding(spec)
    if any(map(any, rest)):
        x = F.pad(x, flat(rest))
    return CONVOLVE[spec.dims - 1](x, weight, bias, spec.stride, own, spec.dilation, groups)  # type: ignore[bad-argument-type]


def convolve_padded(x: Tensor, weight: Tensor, bias: Tensor | None, spec: ConvSpec) -> Tensor:
    """Do the same by its definition: pad first, then convolve without padding and groups."""
    padded = F.pad(x, flat(list(zip(spec.before, spec.after, strict=True))))
    return CONVOLVE[spec.dims - 1](padded, weight, bias, spec.stride, 0, spec.dilation)  # type: ignore[bad-argument-type]


def conv_like(layer: Convolution, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve as a layer does, but with another kernel, dense."""
    function = CONVOLVE[weight.dim() - 3]
    return function(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation)  # type: ignore[bad-argument-type]


def per_channel(values: Tensor, dims: int) -> Tensor:
    """Return a number for each channel, (K,), such that it meets (N, K, *size): (K, 1, ...)."""
    return values.view(-1, *(1,) * dims)


def block_diagonal(weight: Tensor, groups: int) -> Tensor:
    """Return the dense kernel (K, C, *taps) of a grouped one (K, C / groups, *taps), with zeros."""
    out_width, in_width = weight.shape[0] // groups, weight.shape[1]
    dense = weight.new_zeros(weight.shape[0], in_width * groups, *weight.shape[2:])
    for g in range(groups):
        rows = slice(g * out_width, (g + 1) * out_width)
        dense[rows, g * in_width : (g + 1) * in_width] = weight[rows]
    return dense


def explicit(
    layer: nn.Module, x: Tensor, inputs: Tensor | None = None, outputs: Tensor | None = None
) -> Tensor:
    """Compute what a layer made by `conv` must give, as one dense convolution with an explicit kernel.

    Strategies write their definitions with it: groups become zeros in the kernel, a crop becomes padding by
    a negative number, a channel order before or after the layer the order of the kernel's columns or rows.

    Args:
        layer: made by `conv`.
        x: (N, C, *size).
        inputs: permutation in which the layer is to read its input channels.
        outputs: order in which to give its output channels.
    """
    pads = [m for m in layer.modules() if isinstance(m, Pad)]
    x = pads[0](x) if pads else x
    convolution = convolution_of(layer)
    weight = block_diagonal(convolution.weight, convolution.groups)
    bias = convolution.bias
    if inputs is not None:
        weight = weight[:, inverse(inputs)]
    if outputs is not None:
        weight, bias = weight[outputs], bias if bias is None else bias[outputs]
    padded = F.pad(x, flat([(p, p) for p in convolution.padding]))  # type: ignore[bad-argument-type]
    return CONVOLVE[x.dim() - 3](padded, weight, bias, convolution.stride, 0, convolution.dilation)  # type: ignore[bad-argument-type]


def norm_act(channels: int, norm: bool, act: str, eps: float = 1e-5, dims: int = 2) -> nn.Module:
    """Return batch norm (if `norm`) of inputs of `dims` dimensions and an activation by name, or nothing."""
    layers: list[nn.Module] = []
    if norm:
        layers.append(NORMS[dims - 1](channels, eps=eps))
    if act != "none":
        layers.append(ACTIVATIONS[act]())
    return nn.Sequential(*layers)


def norm_of(norm: nn.Module, index: Tensor) -> Norm:
    """Return a batch norm of the channels `index` of another, in its device and dtype."""
    assert isinstance(norm, NORMS)
    result = type(norm)(len(index), norm.eps, norm.momentum)
    state = {key: value[index] if value.dim() else value for key, value in norm.state_dict().items()}
    result.to(norm.weight).load_state_dict(state)
    return result


def resize_to(x: Tensor, size: list[int]) -> Tensor:
    """Upsample to `size`: nearest for an exact multiple, else (bi-, tri-)linear; as it is if it fits.

    Source: ScaleNet's official code; for octaves, where sizes are exact multiples, this is the nearest
    upsampling of Octave Convolution.
    """
    copies = True
    for axis in range(len(size)):
        copies = copies and size[axis] % x.shape[axis + 2] == 0
    if list(x.shape[2:]) == list(size):
        return x
    if copies:
        return F.interpolate(x, size=list(size), mode="nearest")
    linear = ["linear", "bilinear", "trilinear"][len(size) - 1]
    return F.interpolate(x, size=list(size), mode=linear, align_corners=False)
