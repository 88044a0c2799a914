"""MobileNetV3 (arXiv:1905.02244): inverted residuals found by search, with gates and hard swish.

`minimal` variants are the official "minimalistic" ones: 3x3 kernels and ReLU only, no gates. TensorFlow's
weights, for which the official errors are stated, expect `padding="same"`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import ConvNorm, round_channels
from regroup.networks.inverted import InvertedResidual, Numbers
from regroup.networks.layouts import mobilenet as layouts
from regroup.networks.skeletons import MobileNetLike
from regroup.ops.layers import ACTIVATIONS


@dataclass(frozen=True)
class Row:
    """One block of tables 1 and 2: kernel, expansion, channels, gate, hard swish, stride."""

    kernel_size: int
    expansion: float
    channels: int
    squeeze: bool
    swish: bool
    stride: int = 1


LARGE = (
    Row(3, 1, 16, False, False),
    Row(3, 4, 24, False, False, 2),
    Row(3, 3, 24, False, False),
    Row(5, 3, 40, True, False, 2),
    Row(5, 3, 40, True, False),
    Row(5, 3, 40, True, False),
    Row(3, 6, 80, False, True, 2),
    Row(3, 2.5, 80, False, True),
    Row(3, 2.3, 80, False, True),
    Row(3, 2.3, 80, False, True),
    Row(3, 6, 112, True, True),
    Row(3, 6, 112, True, True),
    Row(5, 6, 160, True, True, 2),
    Row(5, 6, 160, True, True),
    Row(5, 6, 160, True, True),
)
SMALL = (
    Row(3, 1, 16, True, False, 2),
    Row(3, 4.5, 24, False, False, 2),
    Row(3, 3.67, 24, False, False),
    Row(5, 4, 40, True, True, 2),
    Row(5, 6, 40, True, True),
    Row(5, 6, 40, True, True),
    Row(5, 3, 48, True, True),
    Row(5, 3, 48, True, True),
    Row(5, 6, 96, True, True, 2),
    Row(5, 6, 96, True, True),
    Row(5, 6, 96, True, True),
)


@dataclass(frozen=True, kw_only=True)
class MobileNetV3Config(Config):
    """Numbers of a MobileNetV3.

    Args:
        rows: the blocks.
        width: all channel numbers but the hidden layer's are multiplied by it and rounded to a multiple of 8.
        hidden: width of the layer before the classifier.
        minimal: 3x3 kernels and ReLU only, no gates.
        eps: of the batch norms; some of timm's weights expect 1e-5.
        gate_first: gate before the activation of an expanded block, as in d-li14's weights.
        padding: of strided convolutions: 'symmetric', or 'same' as TensorFlow's weights expect it.
    """

    rows: tuple[Row, ...]
    hidden: int
    width: float = 1.0
    minimal: bool = False
    eps: float = 1e-3
    padding: str = "symmetric"
    gate_first: bool = False
    drop_rate: float = 0.2


class MobileNetV3(MobileNetLike):
    """A 3x3 convolution, inverted residuals, a 1x1 convolution, and after the pooling a hidden layer."""

    def __init__(self, config: MobileNetV3Config) -> None:
        rows, eps, act = config.rows, config.eps, "relu" if config.minimal else "hardswish"
        if config.minimal:
            rows = tuple(replace(row, kernel_size=3, squeeze=False, swish=False) for row in rows)
        channels = round_channels(16 * config.width)
        conv = ConvNorm(config.in_chans, channels, 3, 2, act=act, eps=eps)
        blocks = []
        for row in rows:
            out = round_channels(row.channels * config.width)
            hidden = round_channels(channels * row.expansion)
            row_act = "hardswish" if row.swish else "relu"
            numbers = Numbers(channels, hidden, out, row.kernel_size, row.stride, row_act, row.squeeze, eps)
            numbers = replace(numbers, gate_first=config.gate_first)
            blocks.append((InvertedResidual(numbers), row.stride, out))
            channels = out
        features = round_channels(6 * rows[-1].channels * config.width)
        tail = ConvNorm(channels, features, act=act, eps=eps)
        head = nn.Sequential(nn.Flatten(), nn.Linear(features, config.hidden), ACTIVATIONS[act]())
        super().__init__(config, conv, blocks, tail=tail, hidden=(head, config.hidden))


family = Family(MobileNetV3, paper="arXiv:1905.02244", source="tensorflow/models", layouts=layouts.V3)

LARGE_CONFIG = MobileNetV3Config(rows=LARGE, hidden=1280)
SMALL_CONFIG = MobileNetV3Config(rows=SMALL, hidden=1024)
for name, config, counts, error, pretrained in (
    ("large_100", LARGE_CONFIG, (5_483_032, 216.6), 24.8, "MobileNet_V3_Large_Weights"),
    ("large_075", replace(LARGE_CONFIG, width=0.75), (3_993_528, 154.6), 26.7, None),
    ("large_minimal", replace(LARGE_CONFIG, minimal=True), (3_924_288, 209.1), 27.7, None),
    ("small_100", SMALL_CONFIG, (2_542_856, 56.5), 32.5, "MobileNet_V3_Small_Weights"),
    ("small_075", replace(SMALL_CONFIG, width=0.75), (2_041_872, 43.4), 34.6, None),
    ("small_minimal", replace(SMALL_CONFIG, minimal=True), (2_044_736, 52.3), 38.1, None),
):
    family.add(
        f"mobilenet_v3_{name}",
        config,
        Claims(*counts, counted="L", top1_error=error),
        pretrained=pretrained and f"torchvision:{pretrained}.IMAGENET1K_V1",
    )
