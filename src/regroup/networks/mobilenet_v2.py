"""MobileNetV2 (arXiv:1801.04381): narrow between the blocks, wide and depthwise inside them.

TensorFlow's weights, for which the official errors are stated, expect `eps=1e-3` and `padding="same"`.
"""

from __future__ import annotations

from dataclasses import dataclass

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import ConvNorm, round_channels
from regroup.networks.inverted import InvertedResidual, Numbers
from regroup.networks.layouts import mobilenet as layouts
from regroup.networks.skeletons import MobileNetLike


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
