"""QuartzNet: speech recognition by separable convolutions over time, with kernels of up to 87 steps.

Kriman et al., QuartzNet: Deep automatic speech recognition with 1D time-channel separable convolutions
(arXiv:1910.10261), section 3 and table 1; official code NVIDIA/NeMo.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.ops.layers import conv
from regroup.spec import ConvSpec
from regroup.strategies.separable import Separable

BLOCKS = ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75))
"""Channels and kernel of each block, B_1 to B_5."""

_EPS = 1e-3


def _separable(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    spec = ConvSpec(inputs, outputs, kernel, stride, padding, dilation, dims=1)
    return [Separable().build(spec), nn.BatchNorm1d(outputs, _EPS)]


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    return [conv(ConvSpec(inputs, outputs, 1, dims=1)), nn.BatchNorm1d(outputs, _EPS)]


class QuartzBlock(nn.Module):
    """`modules` separable convolutions with batch norm, and a pointwise shortcut: (N, C, L) -> (N, K, L).

    ReLU and dropout follow every norm, the last after the shortcut is added.

    Args:
        inputs: C.
        outputs: K.
        kernel: steps of the convolutions.
        modules: number of convolutions, R in the paper.
        drop_rate: of the dropout.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, modules: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (c, k) in enumerate(pairwise([inputs, *[outputs] * modules])):
            layers += [*_separable(c, k, kernel)]
            layers += [nn.ReLU(), nn.Dropout(drop_rate)] if i < modules - 1 else []
        self.convolutions = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(*_pointwise(inputs, outputs))
        self.act = nn.Sequential(nn.ReLU(), nn.Dropout(drop_rate))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.convolutions(x) + self.shortcut(x))


class QuartzNet(nn.Module):
    """Features of speech to scores of labels: (N, features, L) -> (N, labels + 1, ceil(L / 2)).

    >>> net = QuartzNet(labels=28)
    >>> round(sum(p.numel() for p in net.parameters()) / 1e6, 1)
    18.9

    That is QuartzNet-15x5; `repeats=1` is 5x5 of 6.7 million parameters, 2 is 10x5 of 12.8. The last score is
    of CTC's blank, and no softmax follows. The official layers set to zero what lies beyond the length of
    each sequence of a batch; here all steps are there.

    Args:
        labels: letters, without the blank.
        features: of each step; 64 mel bands as published.
        repeats: how often each of the five blocks comes, S in the paper.
        modules: convolutions in a block, R in the paper.
        drop_rate: of the dropout after each ReLU.

    Raises:
        NetworkError: there is no block, or no label.
    """

    def __init__(
        self, labels: int = 28, features: int = 64, repeats: int = 3, modules: int = 5, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        numbers = {"labels": labels, "features": features, "repeats": repeats, "modules": modules}
        for name, value in numbers.items():
            if value < 1:
                raise NetworkError(name, value, "an int of at least 1")

        def act() -> Sequence[nn.Module]:
            return nn.ReLU(), nn.Dropout(drop_rate)

        self.stem = nn.Sequential(*_separable(features, 256, 33, stride=2), *act())
        widths, blocks = 256, []
        for channels, kernel in BLOCKS:
            for _ in range(repeats):
                blocks.append(QuartzBlock(widths, channels, kernel, modules, drop_rate))
                widths = channels
        self.blocks = nn.Sequential(*blocks)
        self.tail = nn.Sequential(
            *_separable(512, 512, 87, dilation=2), *act(), *_pointwise(512, 1024), *act()
        )
        self.classifier = conv(ConvSpec(1024, labels + 1, 1, bias=True, dims=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.tail(self.blocks(self.stem(x))))
