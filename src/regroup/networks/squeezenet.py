"""SqueezeNet (arXiv:1602.07360): squeeze the channels, then expand them by 1x1 and 3x3 side by side.

`squeezenet1_0` is torchvision's. In the authors' own, `..._official`, the last convolution pads its 1x1
kernel, so that a frame of biases goes into the average.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import Branches, ConvAct, Stage
from regroup.networks.layouts import squeezenet as layouts


@dataclass(frozen=True, kw_only=True)
class SqueezeNetConfig(Config):
    """Numbers of a SqueezeNet.

    Args:
        stem: channels and kernel size of the first convolution.
        fires: for each stage, the squeezed channels of its fire modules; they give eight times as many.
        padding: zeros around the last convolution.
    """

    stem: tuple[int, int]
    fires: tuple[tuple[int, ...], ...]
    padding: int = 0
    drop_rate: float = 0.5


class Fire(nn.Module):
    """1x1 down to few channels, then 1x1 and 3x3 up, each to half of the output (section 3.2)."""

    def __init__(self, in_channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = ConvAct(in_channels, squeezed)
        self.expand = Branches([ConvAct(squeezed, 4 * squeezed), ConvAct(squeezed, 4 * squeezed, 3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.squeeze(x))


class SqueezeNet(Backbone):
    """An unpadded convolution, fire modules, and a classifier that is a convolution before the pooling."""

    min_size = 17

    def __init__(self, config: SqueezeNetConfig) -> None:
        channels, kernel_size = config.stem
        stem = ConvAct(config.in_chans, channels, kernel_size, 2, padding=0)
        stages, widths = [], [channels]
        for squeezed in config.fires:
            fires = []
            for s in squeezed:
                fires.append(Fire(channels, s))
                channels = 8 * s
            stages.append(Stage(fires, nn.MaxPool2d(3, stride=2, ceil_mode=True)))
            widths.append(channels)
        super().__init__(config, stem, stages, widths, [2 ** (i + 1) for i in range(len(widths))])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or the pooled features: (N, 512, h, w) -> (N, num_classes)."""
        return self.pool(x if pre_logits else self.classifier(self.drop(x)).relu())

    def new_classifier(self, num_classes: int) -> nn.Module:
        """Return a 1x1 convolution with new weights."""
        layer = nn.Conv2d(self.num_features, num_classes, 1, padding=self.config.padding)
        super().init_layer(layer)
        nn.init.normal_(layer.weight, std=0.01)
        return layer

    def init_weights(self) -> None:
        """Start all layers anew, the classifier as `new_classifier` does."""
        super().init_weights()
        self.reset_classifier(self.num_classes)

    def init_layer(self, layer: nn.Module) -> None:
        """By fan-in, as the official code."""
        super().init_layer(layer)
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


family = Family(
    SqueezeNet,
    paper="arXiv:1602.07360",
    source="forresti/SqueezeNet",
    layouts=layouts.SQUEEZENET,
    pool_size=(13, 13),
)

V1_0 = SqueezeNetConfig(stem=(96, 7), fires=((16, 16, 32), (32, 48, 48, 64), (64,)))
family.add(
    "squeezenet1_0",
    V1_0,
    Claims(1_248_424, 818.9, (224, 224), "L", 41.908, 19.58, "L"),
    pretrained="torchvision:SqueezeNet1_0_Weights.IMAGENET1K_V1",
)
family.add(
    "squeezenet1_0_official",
    replace(V1_0, padding=1),
    Claims(1_248_424, 861.3, (227, 227), top1_error=42.5, top5_error=19.7),
)
family.add(
    "squeezenet1_1",
    SqueezeNetConfig(stem=(64, 3), fires=((16, 16), (32, 32), (48, 48, 64, 64))),
    Claims(1_235_496, 349.2, top1_error=42.5, top5_error=19.7),
    pretrained="torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1",
)
