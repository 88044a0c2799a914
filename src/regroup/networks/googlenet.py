"""GoogLeNet (arXiv:1409.4842): each module looks at its input with 1x1, 3x3 and 5x5 kernels side by side.

`googlenet` is the paper's network: 5x5 kernels, response norm. `googlenet_bn` is the one that torchvision
took from TensorFlow: 3x3 kernels where the paper has 5x5, and batch norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import Branches, ConvAct, ConvNorm, Stage
from regroup.networks.layouts import googlenet as layouts
from regroup.networks.skeletons import Supervised

# 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; pooled and projected (table 1 of the paper)
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


@dataclass(frozen=True, kw_only=True)
class GoogLeNetConfig(Config):
    """Numbers of a GoogLeNet.

    Args:
        kernel_size: of the widest branch: 5 in the paper, 3 in TensorFlow.
        norm: batch norm, and no response norm.
        aux: auxiliary heads after 4a and 4d; in training the model then gives (logits, logits 4d, logits 4a).
    """

    kernel_size: int = 5
    norm: bool = False
    aux: bool = False
    drop_rate: float = 0.4


class AuxiliaryHead(nn.Module):
    """Pool to 4x4, 1x1 convolution, hidden layer, classifier (section 5; torchvision pools adaptively)."""

    def __init__(self, in_channels: int, unit: Callable[..., nn.Module], config: GoogLeNetConfig) -> None:
        super().__init__()
        pool = [] if config.norm else [nn.AvgPool2d(5, stride=3)]
        self.pool = nn.Sequential(*pool, nn.AdaptiveAvgPool2d(4))
        self.conv = unit(in_channels, 128)
        self.hidden = nn.Linear(2048, 1024)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.7)
        self.classifier = nn.Linear(1024, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x)).flatten(1)
        return self.classifier(self.drop(self.act(self.hidden(x))))


class GoogLeNet(Supervised):
    """Stem, then nine inception modules in three stages."""

    min_size = 32

    def __init__(self, config: GoogLeNetConfig) -> None:
        if config.kernel_size % 2 == 0:
            raise NetworkError("kernel_size", config.kernel_size, "odd")
        unit = partial(ConvNorm, eps=1e-3) if config.norm else ConvAct
        stem = unit(config.in_chans, 64, 7, 2)
        first = Stage([unit(64, 64), unit(64, 192, 3)], nn.Sequential(_pool(3), *_norm(config)))
        stages, channels, widths = [first], 192, [64, 192]
        for level in "345":
            blocks = []
            for name, numbers in MODULES.items():
                if name[0] == level:
                    blocks.append(_module(channels, numbers, unit, config.kernel_size))
                    channels = numbers[0] + numbers[2] + numbers[4] + numbers[5]
            pool = _pool(2 if config.norm and level == "5" else 3)
            stages.append(Stage(blocks, nn.Sequential(*_norm(config), pool) if level == "3" else pool))
            widths.append(channels)
        heads = {"2_0": 512, "2_3": 528} if config.aux else {}
        super().__init__(
            config,
            stem,
            stages,
            widths,
            (2, 4, 8, 16, 32),
            heads={key: AuxiliaryHead(width, unit, config) for key, width in heads.items()},
        )

    def init_layer(self, layer: nn.Module) -> None:
        """Fan-in as in Caffe: by fan-out, without batch norm, the narrow 1x1 would blow signals up."""
        super().init_layer(layer)
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _norm(config: GoogLeNetConfig) -> list[nn.Module]:
    return [] if config.norm else [nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)]


def _pool(kernel_size: int) -> nn.Module:
    return nn.MaxPool2d(kernel_size, stride=2, ceil_mode=True)


def _module(
    channels: int, numbers: tuple[int, ...], unit: Callable[..., nn.Module], kernel_size: int
) -> Branches:
    plain, reduce3, out3, reduce5, out5, project = numbers
    return Branches(
        [
            unit(channels, plain),
            nn.Sequential(unit(channels, reduce3), unit(reduce3, out3, 3)),
            nn.Sequential(unit(channels, reduce5), unit(reduce5, out5, kernel_size)),
            nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), unit(channels, project)),
        ]
    )


family = Family(GoogLeNet, paper="arXiv:1409.4842", source="BVLC/caffe", layouts=layouts.GOOGLENET)

family.add(
    "googlenet",
    GoogLeNetConfig(),
    Claims(6_998_552, 1582.7, counted="O", top1_error=31.3, top5_error=11.1),
)
family.add(
    "googlenet_bn",
    GoogLeNetConfig(kernel_size=3, norm=True, drop_rate=0.2),
    Claims(6_624_904, 1498.4, counted="L", top1_error=30.222, top5_error=10.47, stated="L"),
    source="pytorch/vision",
    pretrained="torchvision:GoogLeNet_Weights.IMAGENET1K_V1",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
