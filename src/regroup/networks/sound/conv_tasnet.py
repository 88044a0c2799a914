"""Conv-TasNet: voices are parted by masks that dilated depthwise convolutions find.

Luo, Mesgarani, Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation
(arXiv:1809.07454), section II and figure 1; letters are the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import NetworkError
from regroup.ops.layers import conv
from regroup.spec import ConvSpec

MASKS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}


def _point(inputs: int, outputs: int) -> nn.Module:
    return conv(ConvSpec(inputs, outputs, 1, bias=True, dims=1))


def _norm(channels: int) -> nn.Module:
    """Return the paper's global layer norm, over all channels and steps."""
    return nn.GroupNorm(1, channels, eps=1e-8)


class TemporalBlock(nn.Module):
    """A 1x1, a dilated depthwise convolution, and two 1x1 side by side: (N, B, L) -> (N, B, L) twice.

    The first is to be added to the input, the second to the other blocks'; PReLU and norm precede each.

    Args:
        channels: B, and as many to all blocks' sum, Sc.
        hidden: H.
        kernel: P.
        dilation: of the depthwise convolution.
        last: there is no first output, for nobody reads it.
    """

    def __init__(self, channels: int, hidden: int, kernel: int, dilation: int, last: bool = False) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        depthwise = ConvSpec(hidden, hidden, kernel, 1, padding, dilation, bias=True, dims=1)
        self.layers = nn.Sequential(
            _point(channels, hidden),
            nn.PReLU(),
            _norm(hidden),
            conv(depthwise, hidden),
            nn.PReLU(),
            _norm(hidden),
        )
        self.residual = None if last else _point(hidden, channels)
        self.skip = _point(hidden, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layers(x)
        return x if self.residual is None else x + self.residual(y), self.skip(y)


class ConvTasNet(nn.Module):
    """A mixture of voices to each of them: (N, 1, samples) -> (N, sources, samples).

    >>> net = ConvTasNet()
    >>> net(torch.randn(2, 1, 4000)).shape, round(sum(p.numel() for p in net.parameters()) / 1e6, 1)
    (torch.Size([2, 2, 4000]), 5.0)

    The paper counts 5.1 million parameters, with a last 1x1 convolution that nobody reads. Zeros make up what
    the filters' steps leave over at the end, and are cut off again.

    Args:
        sources: voices.
        filters: N of the encoder; 512 in the paper's best.
        length: L of the filters, in samples; 16 there.
        channels: B and Sc; 128 there.
        hidden: H; 512 there.
        kernel: P, odd; 3 there.
        blocks: X, whose dilation doubles from 1 on; 8 there.
        repeats: R; 3 there.
        mask: activation of the masks, sigmoid or relu.

    Raises:
        NetworkError: an even kernel, filters of odd length, or another activation.
    """

    def __init__(
        self,
        sources: int = 2,
        *,
        filters: int = 512,
        length: int = 16,
        channels: int = 128,
        hidden: int = 512,
        kernel: int = 3,
        blocks: int = 8,
        repeats: int = 3,
        mask: str = "sigmoid",
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise NetworkError("kernel", kernel, "odd, so that it has a centre")
        if length < 2 or length % 2:
            raise NetworkError("length", length, "even: filters overlap by half of it")
        if mask not in MASKS:
            raise NetworkError("mask", mask, f"one of {', '.join(MASKS)}")
        self.sources, self.stride = sources, length // 2
        self.encoder = conv(ConvSpec(1, filters, length, self.stride, self.stride, dims=1))
        self.norm, self.bottleneck = _norm(filters), _point(filters, channels)
        count = blocks * repeats
        self.blocks = nn.ModuleList(
            TemporalBlock(channels, hidden, kernel, 2 ** (i % blocks), last=i == count - 1)
            for i in range(count)
        )
        self.masks = nn.Sequential(nn.PReLU(), _point(channels, sources * filters), MASKS[mask]())
        self.decoder = nn.ConvTranspose1d(filters, 1, length, self.stride, self.stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        left = -x.shape[-1] % self.stride
        encoded = self.encoder(F.pad(x, (0, left)))
        y = self.bottleneck(self.norm(encoded))
        total: Tensor | None = None
        for block in self.blocks:
            y, skip = block(y)
            total = skip if total is None else total + skip
        assert total is not None
        voices = [self.decoder(encoded * mask) for mask in self.masks(total).chunk(self.sources, 1)]
        return torch.cat(voices, 1)[..., : x.shape[-1]]
