"""Dynamic group convolution (arXiv:2007.04242): CondenseNets and a ResNet-18 whose inputs each image chooses.

MACs are those of eval mode, where only the chosen inputs are convolved; the official counter gives 549.3,
71.0 and 890.4 million, for it counts poolings and activations, too. The parameters hold all heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.condensenet import NormActConv
from regroup.networks.layouts import condensenet as layouts
from regroup.networks.skeletons import DenseNetLike, ResNetLike
from regroup.ops.dynamic import DynamicGroupConv, Saliency
from regroup.spec import ConvSpec
from regroup.strategies.dynamic import DynamicConv, dropped_at


@dataclass(frozen=True, kw_only=True)
class DynamicConfig(Config):
    """How dynamic convolutions choose their inputs.

    Args:
        heads: number of heads; must divide all channel numbers.
        gate: share of the inputs that each head reads.
        squeeze: of the hidden layer that decides; halved below 80 channels.
        learned: the share is still to shrink to `gate` while it trains.
    """

    heads: int = 4
    gate: float = 0.25
    squeeze: int = 16
    learned: bool = False


@dataclass(frozen=True, kw_only=True)
class DynamicCondenseNetConfig(DynamicConfig):
    """Numbers of a CondenseNet with dynamic 1x1 convolutions.

    Args:
        depths: layers of each stage.
        growth: channels that a layer of each stage adds.
        groups: of the 3x3 convolutions.
        bottleneck: channels between the two convolutions of a layer, as a multiple of the growth.
        small: for small images: the first convolution has stride 1.
    """

    depths: tuple[int, ...]
    growth: tuple[int, ...]
    groups: int = 4
    bottleneck: int = 4
    small: bool = False


@dataclass(frozen=True, kw_only=True)
class DynamicResNetConfig(DynamicConfig):
    """Numbers of a ResNet with dynamic convolutions.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage.
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    gate: float = 0.45


def dynamic_conv(
    in_channels: int, out_channels: int, config: DynamicConfig, kernel_size: int = 1, stride: int = 1
) -> nn.Module:
    """Return batch norm, ReLU and dynamic convolution, as the config says learned or as deployed."""
    if not 0 < config.gate <= 1:
        raise NetworkError("gate", config.gate, "above 0 and at most 1")
    spec = ConvSpec(in_channels, out_channels, 1, stride).with_kernel(kernel_size)
    if config.learned:
        return DynamicConv(spec, config.heads, config.gate, squeeze=config.squeeze, norm=True, act="relu")
    kept = in_channels - dropped_at(1, in_channels, config.gate)
    return DynamicGroupConv(spec, config.heads, kept, config.squeeze, norm=True, act="relu")


class DynamicLayer(nn.Module):
    """A dynamic 1x1 convolution and a 3x3 one in groups; what they give is added to the channels."""

    def __init__(self, in_channels: int, growth: int, config: DynamicCondenseNetConfig) -> None:
        super().__init__()
        middle = config.bottleneck * growth
        self.conv1 = dynamic_conv(in_channels, middle, config)
        self.conv2 = NormActConv(middle, growth, 3, config.groups)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(self.conv1(x))], 1)


class DynamicBlock(nn.Module):
    """Two dynamic 3x3 convolutions and a shortcut, with batch norm before and after each convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: DynamicConfig) -> None:
        super().__init__()
        self.conv1 = dynamic_conv(in_channels, out_channels, config, 3, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = dynamic_conv(out_channels, out_channels, config, 3)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU()
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            project = dynamic_conv(in_channels, out_channels, config, 1, stride)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return self.act(y + self.shortcut(x))


def start_salient(model: nn.Module) -> None:
    """Start dynamic convolutions with all inputs about equally salient.

    With the official start a new network overflows in eval mode, before batch norm has seen images.
    """
    for module in model.modules():
        if isinstance(module, DynamicGroupConv):
            fan_out = module.spec.taps * module.spec.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if isinstance(module, Saliency):
            nn.init.normal_(module.expand.weight, std=0.01)
            nn.init.ones_(module.expand.get_parameter("bias"))


class DynamicCondenseNet(DenseNetLike):
    """A CondenseNet of dynamic layers."""

    def __init__(self, config: DynamicCondenseNetConfig) -> None:
        super().__init__(config, lambda stage, c: DynamicLayer(c, config.growth[stage], config))

    def init_weights(self) -> None:
        """As by default, with `start_salient`."""
        super().init_weights()
        start_salient(self)


class DynamicResNet(ResNetLike):
    """A ResNet of dynamic blocks."""

    def __init__(self, config: DynamicResNetConfig) -> None:
        def block(in_channels: int, stage: int, index: int, stride: int) -> nn.Module:
            return DynamicBlock(in_channels, config.widths[stage], stride, config)

        super().__init__(config, config.widths[0], config.widths, block)

    def init_weights(self) -> None:
        """As by default, with `start_salient`."""
        super().init_weights()
        start_salient(self)


family = Family(DynamicCondenseNet, paper="arXiv:2007.04242", source="hellozhuo/dgc", layouts=layouts.DGC)

family.add(
    "dgc_condensenet_74",
    DynamicCondenseNetConfig(depths=(4, 6, 8, 10, 8), growth=(8, 16, 32, 64, 128)),
    Claims(24_060_664, 529.7, counted="O", top1_error=25.4, top5_error=7.8),
)
family.add(
    "dgc_condensenet_cifar_86",
    DynamicCondenseNetConfig(depths=(14, 14, 14), growth=(8, 16, 32), small=True, num_classes=10),
    Claims(4_264_810, 65.1, size=(32, 32), counted="O", top1_error=4.77, data="CIFAR-10"),
)

family = Family(DynamicResNet, paper="arXiv:2007.04242", source="hellozhuo/dgc", layouts=layouts.DGC)

family.add(
    "dgc_resnet18",
    DynamicResNetConfig(),
    Claims(12_335_144, 884.5, counted="O", top1_error=31.22, top5_error=11.38),
)
