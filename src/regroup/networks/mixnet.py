"""MixNet (arXiv:1907.09595): inverted residuals found by search, whose depthwise kernels have several sizes.

The 1x1 convolutions of many blocks work in two groups, without a shuffle. Padding is symmetric, as in timm's
own weights and pytorchcv's; TensorFlow's weights expect `eps=1e-3` and `padding="same"`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import ConvNorm, SqueezeExcite, round_channels
from regroup.networks.layouts import mixnet as layouts
from regroup.networks.skeletons import MobileNetLike
from regroup.ops.layers import ACTIVATIONS
from regroup.spec import ConvSpec
from regroup.strategies.mixed import MixedConv


@dataclass(frozen=True)
class Row:
    """One block: kernels, groups of the two 1x1 convolutions, expansion, channels, stride, gate.

    The hidden channels of the gate are `squeeze` times those of the block's input. Blocks with a gate have
    swish, the others ReLU.
    """

    kernels: tuple[int, ...]
    groups: tuple[int, int]
    expansion: int
    channels: int
    stride: int = 1
    squeeze: float = 0.0


SMALL = (
    Row((3,), (1, 1), 1, 16),
    Row((3,), (2, 2), 6, 24, 2),
    Row((3,), (2, 2), 3, 24),
    Row((3, 5, 7), (1, 1), 6, 40, 2, 0.5),
    *[Row((3, 5), (2, 2), 6, 40, 1, 0.5)] * 3,
    Row((3, 5, 7), (1, 2), 6, 80, 2, 0.25),
    *[Row((3, 5), (1, 2), 6, 80, 1, 0.25)] * 2,
    Row((3, 5, 7), (2, 2), 6, 120, 1, 0.5),
    *[Row((3, 5, 7, 9), (2, 2), 3, 120, 1, 0.5)] * 2,
    Row((3, 5, 7, 9, 11), (1, 1), 6, 200, 2, 0.5),
    *[Row((3, 5, 7, 9), (1, 2), 6, 200, 1, 0.5)] * 2,
)
MEDIUM = (
    Row((3,), (1, 1), 1, 24),
    Row((3, 5, 7), (2, 2), 6, 32, 2),
    Row((3,), (2, 2), 3, 32),
    Row((3, 5, 7, 9), (1, 1), 6, 40, 2, 0.5),
    *[Row((3, 5), (2, 2), 6, 40, 1, 0.5)] * 3,
    Row((3, 5, 7), (1, 1), 6, 80, 2, 0.25),
    *[Row((3, 5, 7, 9), (2, 2), 6, 80, 1, 0.25)] * 3,
    Row((3,), (1, 1), 6, 120, 1, 0.5),
    *[Row((3, 5, 7, 9), (2, 2), 3, 120, 1, 0.5)] * 3,
    Row((3, 5, 7, 9), (1, 1), 6, 200, 2, 0.5),
    *[Row((3, 5, 7, 9), (1, 2), 6, 200, 1, 0.5)] * 3,
)

DEEP = (
    *MEDIUM[:3],
    *(row for cut in (3, 7, 11, 15) for row in (*MEDIUM[cut : cut + 4], MEDIUM[cut + 3])),
)
"""MEDIUM with a block more in each of its last four stages."""


@dataclass(frozen=True, kw_only=True)
class MixNetConfig(Config):
    """Numbers of a MixNet.

    Args:
        rows: the blocks.
        stem: channels of the first convolution.
        width: multiplies all channels but the last 1536, rounded to a multiple of 8.
        eps: of the batch norms; TensorFlow's weights expect 1e-3.
        padding: of strided convolutions: 'symmetric', or 'same' as TensorFlow's weights expect it.
    """

    rows: tuple[Row, ...]
    stem: int
    width: float = 1.0
    eps: float = 1e-5
    padding: str = "symmetric"
    drop_rate: float = 0.25


class MixedBlock(nn.Module):
    """1x1 up, mixed depthwise, gate, 1x1 down, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, row: Row, eps: float) -> None:
        super().__init__()
        middle, act = in_channels * row.expansion, "silu" if row.squeeze else "relu"
        self.expand = nn.Identity()
        if row.expansion > 1:
            self.expand = ConvNorm(in_channels, middle, groups=row.groups[0], act=act, eps=eps)
        self.depthwise = MixedConv(ConvSpec(middle, middle, 3, row.stride, 1), row.kernels)
        self.norm = nn.BatchNorm2d(middle, eps=eps)
        self.act = ACTIVATIONS[act]()
        self.squeeze = nn.Identity()
        if row.squeeze:
            self.squeeze = SqueezeExcite(middle, int(in_channels * row.squeeze), act)
        self.project = ConvNorm(middle, out_channels, groups=row.groups[1], act="none", eps=eps)
        self.residual = row.stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.depthwise(self.expand(x))))
        y = self.project(self.squeeze(y))
        return x + y if self.residual else y


class MixNet(MobileNetLike):
    """A 3x3 convolution, mixed blocks, a wide 1x1 convolution."""

    def __init__(self, config: MixNetConfig) -> None:
        channels = round_channels(config.stem * config.width)
        conv = ConvNorm(config.in_chans, channels, 3, 2, eps=config.eps)
        blocks = []
        for row in config.rows:
            out = round_channels(row.channels * config.width)
            blocks.append((MixedBlock(channels, out, row, config.eps), row.stride, out))
            channels = out
        super().__init__(config, conv, blocks, tail=ConvNorm(channels, 1536, eps=config.eps))


family = Family(MixNet, paper="arXiv:1907.09595", source="tensorflow/tpu", layouts=layouts.MIXNET)

for name, config, counts, accuracy in (
    ("s", MixNetConfig(rows=SMALL, stem=16, drop_rate=0.2), (4_134_606, 239.2), (75.99, 92.79)),
    ("m", MixNetConfig(rows=MEDIUM, stem=24), (5_014_382, 339.2), (77.27, 93.42)),
    ("l", MixNetConfig(rows=MEDIUM, stem=24, width=1.3), (7_329_252, 555.3), (78.98, 94.18)),
):
    top1, top5 = (round(100 - a, 2) for a in accuracy)
    family.add(
        f"mixnet_{name}",
        config,
        Claims(*counts, top1_error=top1, top5_error=top5, stated="L"),
        pretrained=f"timm:mixnet_{name}.ft_in1k",
    )

family.add(  # no network of the paper, but timm's
    "mixnet_xl",
    MixNetConfig(rows=DEEP, stem=24, width=1.6),
    Claims(11_896_768, 904.0, counted="L", top1_error=19.53, top5_error=5.07, stated="L"),
    source="huggingface/pytorch-image-models",
    pretrained="timm:mixnet_xl.ra_in1k",
)
