"""The inverted residual of MobileNets v2 and v3: narrow between blocks, wide and depthwise inside."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks.blocks import ConvNorm, SqueezeExcite, round_channels
from regroup.ops.layers import ACTIVATIONS


@dataclass(frozen=True)
class Numbers:
    """What an `InvertedResidual` is made from.

    Args:
        in_channels: of the narrow input.
        hidden: channels inside; no expansion where they are those of the input.
        out_channels: of the narrow output.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        act: activation inside.
        squeeze: gate the hidden channels by squeeze-and-excitation.
        eps: of the batch norms.
        gate_first: gate before the activation, where there is an expansion.
    """

    in_channels: int
    hidden: int
    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    act: str = "relu6"
    squeeze: bool = False
    eps: float = 1e-5
    gate_first: bool = False


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise, gate, linear 1x1 projection; a shortcut where the shape stays."""

    def __init__(self, n: Numbers) -> None:
        super().__init__()
        expands = n.hidden != n.in_channels
        act = "none" if n.squeeze and n.gate_first and expands else n.act
        if expands:
            self.expand = ConvNorm(n.in_channels, n.hidden, act=n.act, eps=n.eps)
        self.depthwise = ConvNorm(
            n.hidden, n.hidden, n.kernel_size, n.stride, groups=n.hidden, act=act, eps=n.eps
        )
        if n.squeeze:
            self.squeeze = SqueezeExcite(n.hidden, round_channels(n.hidden // 4), gate=nn.Hardsigmoid)
        if act != n.act:
            self.act = ACTIVATIONS[n.act]()
        self.project = ConvNorm(n.hidden, n.out_channels, act="none", eps=n.eps)
        self.has_shortcut = n.stride == 1 and n.in_channels == n.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for part in self.children():
            y = part(y)
        return x + y if self.has_shortcut else y
