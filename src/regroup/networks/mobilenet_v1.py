"""MobileNet (arXiv:1704.04861): nothing but depthwise and pointwise convolutions.

Names say width and image size: `mobilenet_v1_050_160` has half the channels and takes images of 160.
TensorFlow's weights, for which the official errors are stated, expect `eps=1e-3` and `padding="same"`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import ConvNorm
from regroup.networks.layouts import mobilenet as layouts
from regroup.networks.skeletons import MobileNetLike


@dataclass(frozen=True, kw_only=True)
class MobileNetV1Config(Config):
    """Numbers of a MobileNet.

    Args:
        width: multiplies all channel numbers, which are then cut to an int of at least 8.
        rows: (channels, blocks, stride of the first).
        act: activation.
        eps: of the batch norms; TensorFlow's weights expect 1e-3.
        padding: of strided convolutions: 'symmetric', or 'same' as TensorFlow's weights expect it.
    """

    width: float = 1.0
    rows: tuple[tuple[int, int, int], ...] = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
    act: str = "relu6"
    eps: float = 1e-5
    padding: str = "symmetric"


class Separable(nn.Module):
    """3x3 depthwise and 1x1 pointwise convolution, each with batch norm and activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, act: str, eps: float) -> None:
        super().__init__()
        self.depthwise = ConvNorm(in_channels, in_channels, 3, stride, groups=in_channels, act=act, eps=eps)
        self.pointwise = ConvNorm(in_channels, out_channels, act=act, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class MobileNetV1(MobileNetLike):
    """A 3x3 convolution, then separable ones (table 1)."""

    def __init__(self, config: MobileNetV1Config) -> None:
        options = {"act": config.act, "eps": config.eps}
        channels = _width(32, config)
        conv = ConvNorm(config.in_chans, channels, 3, 2, **options)
        blocks = []
        for width, repeats, first_stride in config.rows:
            for i in range(repeats):
                stride, out = first_stride if i == 0 else 1, _width(width, config)
                blocks.append((Separable(channels, out, stride, **options), stride, out))
                channels = out
        super().__init__(config, conv, blocks)


def _width(channels: int, config: MobileNetV1Config) -> int:
    return max(8, int(channels * config.width))


family = Family(
    MobileNetV1,
    paper="arXiv:1704.04861",
    source="tensorflow/models",
    layouts=layouts.V1,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

PARAMETERS = {1.0: 4_231_976, 0.75: 2_585_560, 0.5: 1_331_592, 0.25: 470_072}
# width, image size: MACs in millions, top-1 and top-5 error (the official repository's table)
TABLE = (
    (1.0, 224, 568.7, 29.1, 10.1),
    (1.0, 192, 418.1, 30.0, 10.8),
    (1.0, 160, 290.7, 32.0, 12.3),
    (1.0, 128, 186.4, 34.8, 14.2),
    (0.75, 224, 325.4, 31.6, 11.8),
    (0.75, 192, 239.3, 32.8, None),
    (0.75, 160, 166.4, 34.7, None),
    (0.75, 128, 106.8, 37.9, None),
    (0.5, 224, 149.5, 36.7, 15.1),
    (0.5, 192, 110.0, 38.3, None),
    (0.5, 160, 76.5, 40.9, None),
    (0.5, 128, 49.2, 43.7, None),
    (0.25, 224, 41.0, 50.2, 25.8),
    (0.25, 192, 30.2, 52.3, None),
    (0.25, 160, 21.1, 54.5, None),
    (0.25, 128, 13.6, 58.5, None),
)
for width, size, mega_macs, top1, top5 in TABLE:
    name = f"mobilenet_v1_{round(100 * width):03}" + ("" if size == 224 else f"_{size}")
    family.add(
        name,
        MobileNetV1Config(width=width),
        Claims(PARAMETERS[width], mega_macs, (size, size), "L", top1, top5),
        pretrained="timm:mobilenetv1_100.ra4_e3600_r224_in1k" if name == "mobilenet_v1_100" else None,
    )
