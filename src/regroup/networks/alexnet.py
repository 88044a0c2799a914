"""AlexNet (NeurIPS 2012): the first grouped convolutions, to share one network between two GPUs.

`alexnet` is the paper's two towers in grouped form: the response norm of a tower sees that tower alone.
`alexnet_caffe` is Caffe's re-implementation (norm over both towers, other constants), `caffenet` pools
before it norms, `alexnet_dense` has no groups, `alexnet_owt` is the one-tower network (arXiv:1404.5997) of
torchvision, with other widths and no norm. Images of 227 give the 55 x 55 maps of the paper; 224 does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvAct, Stage
from regroup.networks.layouts import alexnet as layouts


@dataclass(frozen=True, kw_only=True)
class AlexNetConfig(Config):
    """Numbers of an AlexNet.

    Args:
        widths: channels of the five convolutions.
        groups: of convolutions 2, 4 and 5: the towers.
        hidden: width of the two hidden layers.
        norm: 'paper', 'caffe', 'batch' (in place of the response norm, as in jiecaoyu's weights) or 'none'.
        pool_first: pool before the norm.
        padding: of the first convolution.
    """

    widths: tuple[int, ...] = (96, 256, 384, 384, 256)
    groups: int = 2
    hidden: int = 4096
    norm: str = "paper"
    pool_first: bool = False
    padding: int = 0
    drop_rate: float = 0.5


class ResponseNorm(nn.Module):
    """x / (k + alpha * sum of squares over 5 neighbouring channels)^0.75, inside each group of channels.

    Section 3.3 of the paper: k = 2, alpha = 1e-4. Caffe: k = 1, alpha = 1e-4 / 5, across the groups.
    """

    def __init__(self, alpha: float, k: float, groups: int) -> None:
        super().__init__()
        self.alpha, self.k, self.groups = alpha, float(k), groups

    def forward(self, x: Tensor) -> Tensor:
        towers = x.chunk(self.groups, 1)
        # torch's function divides alpha by the 5 neighbours
        normed = [
            F.local_response_norm(towers[i], 5, 5 * self.alpha, 0.75, self.k) for i in range(self.groups)
        ]
        return torch.cat(normed, 1)


def _norm(config: AlexNetConfig, channels: int) -> list[nn.Module]:
    if config.norm == "none":
        return []
    if config.norm == "batch":
        return [nn.BatchNorm2d(channels, eps=1e-4)]
    paper = config.norm == "paper"
    return [ResponseNorm(1e-4, 2, config.groups) if paper else ResponseNorm(1e-4 / 5, 1, 1)]


def _pool(config: AlexNetConfig, channels: int) -> nn.Module:
    """Return the norm and the pooling that stand between two convolutions, in the order of the config."""
    pool: list[nn.Module] = [nn.MaxPool2d(3, stride=2)]
    norm = _norm(config, channels)
    return nn.Sequential(*(pool + norm if config.pool_first else norm + pool))


class AlexNet(Backbone):
    """Five convolutions, three poolings, two hidden layers."""

    min_size = 67

    def __init__(self, config: AlexNetConfig) -> None:
        if config.norm not in ("paper", "caffe", "batch", "none"):
            raise NetworkError("norm", config.norm, "'paper', 'caffe', 'batch' or 'none'")
        c, g = config.widths, config.groups
        stem = ConvAct(config.in_chans, c[0], 11, 4, padding=config.padding)
        rest = [ConvAct(c[1], c[2], 3), ConvAct(c[2], c[3], 3, groups=g), ConvAct(c[3], c[4], 3, groups=g)]
        stages = [
            Stage([ConvAct(c[0], c[1], 5, groups=g)], _pool(config, c[0])),
            Stage(rest, _pool(config, c[1])),
            Stage([], nn.MaxPool2d(3, stride=2)),
        ]
        hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(c[4] * 36, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.drop_rate),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
        )
        widths, reductions = (c[0], c[1], c[4], c[4]), (4, 8, 16, 32)
        super().__init__(config, stem, stages, widths, reductions, hidden=(hidden, config.hidden), pooled=6)

    def init_layer(self, layer: nn.Module) -> None:
        """Section 5 of the paper: weights N(0, 0.01)."""
        super().init_layer(layer)
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)

    def init_weights(self) -> None:
        """Section 5 of the paper: biases 1 in convolutions 2, 4, 5 and the hidden layers."""
        super().init_weights()
        _, second, _, fourth, fifth = (m for m in self.modules() if isinstance(m, nn.Conv2d))
        for layer in (second, fourth, fifth, *self.hidden.children()):
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                nn.init.ones_(layer.bias)


class Towers(nn.Module):
    """The same function as an AlexNet with groups, computed as on two GPUs: one tensor for each tower.

    Convolutions 2, 4 and 5 read their own tower; the third one reads both, as the hidden layers do.
    """

    def __init__(self, model: AlexNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        groups = self.model.config.groups
        towers = [x] * groups
        for part in (self.model.stem, *self.model.stages):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    towers = _tower_conv(towers, layer)
                elif isinstance(layer, ResponseNorm):
                    towers = [ResponseNorm(layer.alpha, layer.k, 1)(tower) for tower in towers]
                elif isinstance(layer, (nn.ReLU, nn.MaxPool2d)):
                    towers = [layer(tower) for tower in towers]
        return self.model.forward_head(torch.cat(towers, 1))


def _tower_conv(towers: list[Tensor], layer: nn.Conv2d) -> list[Tensor]:
    """Convolve each tower; a convolution without groups reads all towers (or the image)."""
    if layer.groups == 1 and towers[0].shape[1] != layer.in_channels:
        towers = [torch.cat(towers, 1)] * len(towers)
    assert layer.bias is not None  # every convolution of AlexNet has one
    weights, biases = layer.weight.chunk(len(towers)), layer.bias.chunk(len(towers))
    return [
        F.conv2d(tower, weight, bias, layer.stride, layer.padding)
        for tower, weight, bias in zip(towers, weights, biases, strict=True)
    ]


family = Family(
    AlexNet,
    paper="Krizhevsky et al., NeurIPS 2012",
    source="akrizhevsky/cuda-convnet2",
    layouts=layouts.ALEXNET,
    pool_size=(6, 6),
)

SIZE = (227, 227)
family.add(
    "alexnet",
    AlexNetConfig(),
    # Table 2 of the paper, "1 CNN": the mean over ten patches of each image (section 4.1), not one crop.
    Claims(60_965_224, 724.4, SIZE, top1_error=40.7, top5_error=18.2, stated="P"),
)
family.add(
    "alexnet_caffe",
    AlexNetConfig(norm="caffe"),
    Claims(60_965_224, 724.4, SIZE, top1_error=42.9, top5_error=19.8),
    source="BVLC/caffe",
)
family.add(
    "caffenet",
    AlexNetConfig(norm="caffe", pool_first=True),
    Claims(60_965_224, 724.4, SIZE, top1_error=42.6, top5_error=19.6),
    source="BVLC/caffe",
)
family.add("alexnet_dense", AlexNetConfig(groups=1), Claims(62_378_344, 1135.3, SIZE))
family.add(
    "alexnet_owt",
    AlexNetConfig(widths=(64, 192, 384, 256, 256), groups=1, norm="none", padding=2),
    Claims(61_100_840, 714.2, (224, 224), "L", 43.478, 20.934, "L"),
    paper="arXiv:1404.5997",
    source="pytorch/vision",
    pretrained="torchvision:AlexNet_Weights.IMAGENET1K_V1",
)
