"""MobileNetV2 (arXiv:1801.04381): narrow between the blocks, wide and depthwise inside them.

TensorFlow's weights, for which the official errors are stated, expect `eps=1e-3` and `padding="same"`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import ConvNorm, SqueezeExcite, round_channels
from regroup.networks.layouts import mobilenet as layouts
from regroup.networks.skeletons import MobileNetLike
from regroup.ops.layers import ACTIVATIONS


@dataclass(frozen=True, kw_only=True)
class MobileNetV2Config(Config):
    """Numbers of a MobileNetV2.

    Args:
        width: multiplies all channel numbers, rounded to multiples of 8; the head never shrinks.
        rows: (expansion, channels, blocks, stride of the first): table 2.
        head: channels of the last 1x1 convolution.
        eps: of the batch norms; TensorFlow's weights expect 1e-3.
        padding: of strided convolutions: 'symmetric', or 'same' as TensorFlow's weights expect it.
    """

    width: float = 1.0
    rows: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    head: int = 1280
    eps: float = 1e-5
    padding: str = "symmetric"
    drop_rate: float = 0.2


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


class MobileNetV2(MobileNetLike):
    """A 3x3 convolution, inverted residuals, a wide 1x1 convolution."""

    def __init__(self, config: MobileNetV2Config) -> None:
        eps, channels = config.eps, round_channels(32 * config.width)
        conv = ConvNorm(config.in_chans, channels, 3, 2, act="relu6", eps=eps)
        blocks = []
        for expansion, width, repeats, first_stride in config.rows:
            for i in range(repeats):
                stride, out = first_stride if i == 0 else 1, round_channels(width * config.width)
                numbers = Numbers(channels, channels * expansion, out, stride=stride, eps=eps)
                blocks.append((InvertedResidual(numbers), stride, out))
                channels = out
        head = round_channels(config.head * max(1.0, config.width))
        super().__init__(config, conv, blocks, tail=ConvNorm(channels, head, act="relu6", eps=eps))


family = Family(MobileNetV2, paper="arXiv:1801.04381", source="tensorflow/models", layouts=layouts.V2)

for width, counts, errors, pretrained in (
    (1.4, (6_108_776, 582.2), (25.0, 7.5), "timm:mobilenetv2_140.ra_in1k"),
    (1.3, (5_386_792, 509.4), (25.6, None), None),
    (1.0, (3_504_872, 300.8), (28.2, 9.0), "torchvision:MobileNet_V2_Weights.IMAGENET1K_V1"),
    (0.75, (2_636_424, 209.1), (30.2, None), None),
    (0.5, (1_968_680, 97.1), (34.6, None), "timm:mobilenetv2_050.lamb_in1k"),
    (0.35, (1_677_128, 59.3), (39.7, None), None),
):
    family.add(
        f"mobilenet_v2_{round(100 * width):03}",
        MobileNetV2Config(width=width),
        Claims(*counts, counted="L", top1_error=errors[0], top5_error=errors[1]),
        pretrained=pretrained,
    )
