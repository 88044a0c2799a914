"""Conformer's convolution module: between attention and feed-forward, a depthwise convolution over time.

Gulati et al., Conformer: Convolution-augmented Transformer for Speech Recognition (arXiv:2005.08100), section
2.2 and figure 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.ops.layers import conv
from regroup.spec import ConvSpec


class ConformerConvolution(nn.Module):
    """Layer norm, 1x1, GLU, depthwise, batch norm, swish, 1x1, dropout: (N, L, C) -> (N, L, C).

    >>> ConformerConvolution(144)(torch.randn(2, 50, 144)).shape
    torch.Size([2, 50, 144])

    What it gives is to be added to what it got. Causal, it looks at no later step, as streaming needs.

    Args:
        channels: C; 144, 256 and 512 in the paper's three sizes.
        kernel: steps of the depthwise convolution; 32 in the paper, where an odd one has a centre.
        causal: all padding lies before the first step.
        drop_rate: of the dropout.
        bias: the convolutions have biases.

    Raises:
        NetworkError: an even kernel that is not causal.
    """

    def __init__(
        self,
        channels: int,
        kernel: int = 31,
        *,
        causal: bool = False,
        drop_rate: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if kernel < 1 or (kernel % 2 == 0 and not causal):
            raise NetworkError("kernel", kernel, "odd, so that it has a centre", "or use causal=True")
        padding = ((kernel - 1, 0),) if causal else kernel // 2
        wide, narrow = ((ConvSpec(channels, c, 1, bias=bias, dims=1)) for c in (2 * channels, channels))
        depthwise = ConvSpec(channels, channels, kernel, padding=padding, bias=bias, dims=1)
        self.norm = nn.LayerNorm(channels)
        self.layers = nn.Sequential(
            conv(wide),
            nn.GLU(1),
            conv(depthwise, channels),
            nn.BatchNorm1d(channels),
            nn.SiLU(),
            conv(narrow),
            nn.Dropout(drop_rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.norm(x).transpose(1, 2)).transpose(1, 2)
