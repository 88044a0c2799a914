"""The blocks that networks share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from regroup.ops.layers import ACTIVATIONS, conv
from regroup.spec import ConvSpec


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation: what almost every network is made of.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd, so that the default padding keeps the size at stride 1.
        stride: of the convolution.
        groups: of the convolution; must divide both channel numbers.
        act: a name of `ACTIVATIONS`.
        padding: zeros on each side; by default half the kernel.
        eps: of the batch norm.

    Raises:
        SpecError: the groups do not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        act: str = "relu",
        padding: int | tuple[int, int] | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if padding is None:
            spec = ConvSpec(in_channels, out_channels, 1, stride).with_kernel(kernel_size)
        else:
            spec = ConvSpec(in_channels, out_channels, kernel_size, stride, padding)
        layer = conv(spec, groups)
        assert isinstance(layer, nn.Conv2d)  # only a negative padding would crop
        self.conv = layer
        self.norm = nn.BatchNorm2d(out_channels, eps=eps)
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class ConvAct(nn.Module):
    """Convolution with bias, and ReLU: what networks were made of before batch norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = conv(ConvSpec(in_channels, out_channels, kernel_size, stride, padding, bias=True), groups)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Branches(nn.ModuleList):
    """Modules side by side on the same input; their outputs are concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


class Stage(nn.Sequential):
    """Blocks in a row, numbered from 0, with a pooling before them where the network pools between stages."""

    def __init__(self, blocks: Iterable[nn.Module], pool: nn.Module | None = None) -> None:
        super().__init__()
        if pool is not None:
            self.add_module("pool", pool)
        for index, block in enumerate(blocks):
            self.add_module(str(index), block)


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate that all channels' means decide. Hu et al. (arXiv:1709.01507).

    Args:
        channels: of input and output.
        hidden: channels between the two 1x1 convolutions.
        act: between them, a name of `ACTIVATIONS`.
        gate: after them; nn.Sigmoid or nn.Hardsigmoid.
        bias: of the two 1x1 convolutions.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        act: str = "relu",
        gate: type[nn.Module] = nn.Sigmoid,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.act = ACTIVATIONS[act]()
        self.expand = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.act(self.reduce(mean))))


class AuxiliaryHead(nn.Module):
    """Halve the size, 1x1, 3x3, pool, classifier: the heads of large ShuffleNets.

    Args:
        in_channels: of the map.
        channels: of the two convolutions.
        num_classes: outputs.
        eps: of the batch norms.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, eps: float) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.convs = nn.Sequential(
            ConvNorm(in_channels, channels, eps=eps), ConvNorm(channels, channels, 3, eps=eps)
        )
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.convs(self.pool(x)).mean((2, 3)))


def round_channels(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, never below 90 % of `channels`: MobileNet's rule."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
