"""Xception (arXiv:1610.02357): Inception taken to its extreme, a group for every channel.

Modules of depthwise then pointwise convolutions with nothing between the two, around which shortcuts lead.
As timm has it, whose weights are Keras's. Keras's own network, whose errors are quoted, has `eps=1e-3` and
`padding="same"`: its pooling is lopsided where the size is even.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvNorm, Stage
from regroup.networks.layouts import xception as layouts


@dataclass(frozen=True, kw_only=True)
class XceptionConfig(Config):
    """Numbers of an Xception.

    Args:
        stem: channels of the two plain convolutions.
        entry: channels of the modules that each halve the size.
        middle: number of modules that keep it.
        exit: channels of the last module and of the two convolutions after it.
        eps: of the batch norms.
        padding: of strided poolings: 'symmetric', or 'same' as in Keras.
    """

    stem: tuple[int, int] = (32, 64)
    entry: tuple[int, int, int] = (128, 256, 728)
    middle: int = 8
    exit: tuple[int, int, int] = (1024, 1536, 2048)
    eps: float = 1e-5
    padding: str = "symmetric"


class Separable(nn.Module):
    """3x3 depthwise, 1x1 pointwise, batch norm; a ReLU before or after where the network has one."""

    def __init__(
        self, in_channels: int, out_channels: int, eps: float, before: bool = True, after: bool = False
    ) -> None:
        super().__init__()
        self.before = nn.ReLU() if before else nn.Identity()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=eps)
        self.after = nn.ReLU() if after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.norm(self.pointwise(self.depthwise(self.before(x)))))


class Module(nn.Module):
    """Separable convolutions and a shortcut; with `halve`, a pooling and a strided 1x1 on the shortcut."""

    def __init__(
        self, widths: tuple[int, ...], eps: float, halve: bool = False, first_relu: bool = True
    ) -> None:
        super().__init__()
        pairs = enumerate(itertools.pairwise(widths))
        self.convs = nn.Sequential(*(Separable(a, b, eps, first_relu or i > 0) for i, (a, b) in pairs))
        self.pool, self.shortcut = nn.Identity(), nn.Identity()
        if halve:
            self.pool = nn.MaxPool2d(3, stride=2, padding=1)
            self.shortcut = ConvNorm(widths[0], widths[-1], stride=2, act="none", eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.convs(x)) + self.shortcut(x)


class Xception(Backbone):
    """Entry flow, middle flow, exit flow (figure 5)."""

    min_size = 7

    def __init__(self, config: XceptionConfig) -> None:
        (s0, s1), (e0, e1, e2), (x0, x1, x2) = config.stem, config.entry, config.exit
        eps = config.eps
        first = ConvNorm(config.in_chans, s0, 3, 2, padding=0, eps=eps)
        stem = nn.Sequential(first, ConvNorm(s0, s1, 3, padding=0, eps=eps))
        middle = [Module((e2, e2, e2, e2), eps) for _ in range(config.middle)]
        tail = [Separable(a, b, eps, before=False, after=True) for a, b in ((x0, x1), (x1, x2))]
        stages = [
            Stage([Module((s1, e0, e0), eps, halve=True, first_relu=False)]),
            Stage([Module((e0, e1, e1), eps, halve=True)]),
            Stage([Module((e1, e2, e2), eps, halve=True), *middle]),
            Stage([Module((e2, e2, x0), eps, halve=True), *tail]),
        ]
        super().__init__(config, stem, stages, (s1, e0, e1, e2, x2), (2, 4, 8, 16, 32))


family = Family(
    Xception,
    paper="arXiv:1610.02357",
    source="keras-team/keras-applications",
    layouts=layouts.XCEPTION,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

family.add(
    "xception",
    XceptionConfig(),
    Claims(22_855_952, 8357.4, (299, 299), top1_error=21.0, top5_error=5.5),
    pretrained="timm:legacy_xception.tf_in1k",
)
