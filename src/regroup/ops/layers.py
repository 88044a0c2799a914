"""Small modules that every strategy and network is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.ops.order import inverse
from regroup.spec import ConvSpec, divisors

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "none": nn.Identity,
}


class Crop(nn.Module):
    """Remove `rows` and `columns` from every side: padding by a negative number."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (-self.columns, -self.columns, -self.rows, -self.rows))

    def extra_repr(self) -> str:
        return f"rows={self.rows}, columns={self.columns}"


class Concat(nn.ModuleList):
    """Run branches beside each other on the same input and concatenate their channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


def conv(spec: ConvSpec, groups: int = 1) -> nn.Module:
    """Return the convolution of `spec` in `groups` groups: nn.Conv2d, after a crop where padding is negative.

    Raises:
        SpecError: `groups` does not divide the channels.
    """
    crop, layer = crop_and_conv(spec, groups)
    return nn.Sequential(crop, layer) if isinstance(crop, Crop) else layer


def crop_and_conv(spec: ConvSpec, groups: int = 1) -> tuple[Crop | nn.Identity, nn.Conv2d]:
    """Return what `conv` is made of: the crop, or nothing, and the convolution.

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
    rows, columns = spec.padding
    layer = nn.Conv2d(
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,
        spec.stride,
        (max(0, rows), max(0, columns)),
        spec.dilation,
        groups,
        spec.bias,
    )
    crop = Crop(max(0, -rows), max(0, -columns)) if min(rows, columns) < 0 else nn.Identity()
    return crop, layer


def convolution_of(layer: nn.Module) -> nn.Conv2d:
    """Return the convolution in what `conv` made."""
    (found,) = (m for m in layer.modules() if isinstance(m, nn.Conv2d))
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
    rows, columns = spec.padding
    if min(rows, columns) < 0:
        x = F.pad(x, (min(columns, 0), min(columns, 0), min(rows, 0), min(rows, 0)))
    return F.conv2d(x, weight, bias, spec.stride, (max(rows, 0), max(columns, 0)), spec.dilation, groups)


def block_diagonal(weight: Tensor, groups: int) -> Tensor:
    """Return the dense kernel (K, C, R, S) of a grouped one (K, C / groups, R, S): zeros between groups."""
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
        x: (N, C, H, W).
        inputs: permutation in which the layer is to read its input channels.
        outputs: order in which to give its output channels.
    """
    crops = [m for m in layer.modules() if isinstance(m, Crop)]
    x = crops[0](x) if crops else x
    convolution = convolution_of(layer)
    weight = block_diagonal(convolution.weight, convolution.groups)
    bias = convolution.bias
    if inputs is not None:
        weight = weight[:, inverse(inputs)]
    if outputs is not None:
        weight, bias = weight[outputs], bias if bias is None else bias[outputs]
    rows, columns = convolution.padding  # type: ignore[misc]
    padded = F.pad(x, (columns, columns, rows, rows))  # type: ignore[arg-type]
    return F.conv2d(padded, weight, bias, convolution.stride, 0, convolution.dilation)


def norm_act(channels: int, norm: bool, act: str, eps: float = 1e-5) -> nn.Module:
    """Return batch norm (if `norm`) and an activation by name, or nothing."""
    layers: list[nn.Module] = []
    if norm:
        layers.append(nn.BatchNorm2d(channels, eps=eps))
    if act != "none":
        layers.append(ACTIVATIONS[act]())
    return nn.Sequential(*layers)


def norm_of(norm: nn.BatchNorm2d, index: Tensor) -> nn.BatchNorm2d:
    """Return a batch norm of the channels `index` of another, in its device and dtype."""
    result = nn.BatchNorm2d(len(index), norm.eps, norm.momentum)
    state = {key: value[index] if value.dim() else value for key, value in norm.state_dict().items()}
    result.to(norm.weight).load_state_dict(state)
    return result


def resize_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample to (height, width): nearest for an exact multiple, else bilinear; as it is if it fits.

    Source: ScaleNet's official code; for octaves, where sizes are exact multiples, this is the nearest
    upsampling of Octave Convolution.
    """
    height, width = size
    if x.shape[2] == height and x.shape[3] == width:
        return x
    if height % x.shape[2] == 0 and width % x.shape[3] == 0:
        return F.interpolate(x, size=[height, width], mode="nearest")
    return F.interpolate(x, size=[height, width], mode="bilinear", align_corners=False)
