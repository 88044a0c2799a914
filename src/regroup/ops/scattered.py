"""Layers whose groups choose their outputs: the transpose of `indexed`, for reactivated features.

>>> layer = ScatteredGroupConv(ConvSpec(4, 8, 1), groups=2, kept=3)
>>> layer.index = torch.tensor([0, 1, 2, 1, 6, 7])
>>> layer(torch.randn(1, 4, 5, 5)).shape
torch.Size([1, 8, 5, 5])
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from regroup.errors import SpecError
from regroup.ops.indexed import guard_index
from regroup.ops.layers import NORMS, conv, norm_act
from regroup.ops.order import ChannelShuffle
from regroup.spec import ConvSpec


class ScatteredGroupConv(nn.Module):
    """Normalise and activate, convolve in groups, add each result to the output that it was learned for.

    Input channels of one group stand `groups` apart. An output may be fed by several groups, or by none: then
    it is 0, or the bias. Source: CondenseNet V2 (arXiv:2104.04382), section 3.2, and its official converted
    layer, which multiplies by a matrix of zeros and ones; the addition does no multiplication.

    Shapes: (N, in_channels, *size) -> (N, out_channels, *out).

    Args:
        spec: of the layer as seen from outside.
        groups: of the convolution.
        kept: outputs of each group.
        norm: batch norm before the convolution.
        act: activation after it, a name of `ACTIVATIONS`.

    Raises:
        SpecError: the groups do not divide the inputs, or `kept` is not within 1 ... out_channels.
    """

    def __init__(self, spec: ConvSpec, groups: int, kept: int, norm: bool = True, act: str = "relu") -> None:
        super().__init__()
        if not 1 <= kept <= spec.out_channels:
            raise SpecError("kept", kept, f"within 1 ... out_channels={spec.out_channels}")
        self.outputs, self.each = spec.out_channels, [-1] + [1] * spec.dims
        self.index: Tensor
        self.register_buffer("index", torch.arange(groups * kept) % spec.out_channels)
        guard_index(self, spec.out_channels)
        self.norm = NORMS[spec.dims - 1](spec.in_channels) if norm else nn.Identity()
        self.act = norm_act(spec.in_channels, False, act)
        inner = replace(spec, out_channels=groups * kept, bias=False)
        self.conv = conv(inner, groups)
        self.shuffle = ChannelShuffle(spec.in_channels // groups)
        self.bias = nn.Parameter(torch.zeros(spec.out_channels)) if spec.bias else None

    def forward(self, x: Tensor) -> Tensor:
        parts = self.conv(self.shuffle(self.act(self.norm(x))))
        shape = [parts.size(0), self.outputs]
        for dim in range(len(self.each) - 1):  # sizes one by one, as both TorchScript and torch.fx read them
            shape.append(parts.size(dim + 2))
        if self.bias is None:
            start = parts.new_zeros(shape)
        else:
            start = self.bias.to(parts.dtype).view(self.each).expand(shape)
        return start.index_add(1, self.index, parts)
