"""Dynamic group convolution (arXiv:2007.04242): CondenseNets and a ResNet-18 whose inputs each image chooses.

MACs are those of eval mode, where only the chosen inputs are convolved; the official counter gives 549.3,
71.0 and 890.4 million, for it counts poolings and activations, too. The parameters hold all heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvNorm, Stage
from regroup.networks.condensenet import NormActConv
from regroup.networks.weights import Layout, State
from regroup.ops.dynamic import DynamicGroupConv, Saliency, packed
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


class DynamicBackbone(Backbone):
    """A network with dynamic convolutions."""

    def init_weights(self) -> None:
        """As by default, and all inputs start about equally salient.

        With the official start a new network overflows in eval mode, before batch norm has seen images.
        """
        super().init_weights()
        for module in self.modules():
            if isinstance(module, DynamicGroupConv):
                fan_out = module.spec.taps * module.spec.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if isinstance(module, Saliency):
                nn.init.normal_(module.expand.weight, std=0.01)
                nn.init.ones_(module.expand.get_parameter("bias"))


class DynamicCondenseNet(DynamicBackbone):
    """A 3x3 convolution, stages of growing width with average pooling between them."""

    min_size = 32

    def __init__(self, config: DynamicCondenseNetConfig) -> None:
        channels = 2 * config.growth[0]
        step = 1 if config.small else 2
        stem = nn.Conv2d(config.in_chans, channels, 3, step, 1, bias=False)
        widths, stages = [channels], []
        for index, (depth, growth) in enumerate(zip(config.depths, config.growth, strict=True)):
            layers = [DynamicLayer(channels + i * growth, growth, config) for i in range(depth)]
            stages.append(Stage(layers, nn.AvgPool2d(2) if index else None))
            channels += depth * growth
            widths.append(channels)
        tail = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        reductions = [step, *(step * 2**i for i in range(len(stages)))]
        super().__init__(config, stem, stages, widths, reductions, tail=tail)
        self.min_size = step * 2 ** (len(stages) - 1)


class DynamicResNet(DynamicBackbone):
    """A ResNet of dynamic blocks; each stage after the first halves the size."""

    def __init__(self, config: DynamicResNetConfig) -> None:
        channels = config.widths[0]
        stem = ConvNorm(config.in_chans, channels, 7, 2)
        widths, stages = [channels], []
        for index, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            blocks = []
            for i in range(depth):
                blocks.append(DynamicBlock(channels, width, 2 if i == 0 and index else 1, config))
                channels = width
            stages.append(Stage(blocks, None if index else nn.MaxPool2d(3, stride=2, padding=1)))
            widths.append(channels)
        super().__init__(config, stem, stages, widths, [2, *(4 * 2**i for i in range(len(stages)))])


def _condensenet(model: Backbone) -> dict[str, str]:
    prefixes = {"features.init_conv": "stem", "bn_last": "tail.0"}
    for s, b, name in model.blocks():
        prefixes[f"features.denseblock_{s + 1}.denselayer_{b + 1}"] = name
    return prefixes


def _resnet(model: Backbone) -> dict[str, str]:
    prefixes = {"conv1": "stem.conv", "bn1": "stem.norm", "fc": "classifier"}
    for s, b, name in model.blocks():
        prefixes |= {f"layer{s + 1}.{b}": name, f"layer{s + 1}.{b}.downsample.0": f"{name}.shortcut.0"}
        prefixes[f"layer{s + 1}.{b}.downsample.1.norm"] = f"{name}.shortcut.1"
    return prefixes


def _join_heads(model: Backbone, state: State) -> State:
    """Put the heads, of which the official code has one module each, into one tensor for all."""
    result = dict(state)
    for name, layer in model.named_modules():
        first = f"{name}.headconv_0.conv.weight"
        if not isinstance(layer, (DynamicConv, DynamicGroupConv)) or first not in result:
            continue
        heads = [f"{name}.headconv_{i}" for i in range(layer.heads)]
        if any(f"{head}.{part}" not in result for head in heads for part in HEAD):
            continue
        for part, ours in HEAD.items():
            result[f"{name}.{ours}"] = torch.cat([result.pop(f"{head}.{part}") for head in heads])
        kernel, inactive = result.pop(f"{name}.conv.weight"), f"{name}._inactive_channels"
        if isinstance(layer, DynamicConv):
            result[f"{name}.conv.weight"] = kernel
            result[f"{name}.inactive"] = result.pop(inactive, layer.inactive).long()
            continue
        result[f"{name}.weight"] = packed(kernel, layer.heads)
        if inactive in result and int(result[inactive]) == layer.spec.in_channels - layer.kept:
            del result[inactive]  # any other number is reported as a key that does not fit
    return result


HEAD = {
    "conv.weight": "conv.weight",
    "fc1.weight": "saliency.reduce.weight",
    "fc2.weight": "saliency.expand.weight",
    "fc2.bias": "saliency.expand.bias",
}
PARTS = {"conv_1": "conv1", "conv_2": "conv2", "bn1": "norm1", "bn2": "norm2"}

family = Family(
    DynamicCondenseNet,
    paper="arXiv:2007.04242",
    source="hellozhuo/dgc",
    layouts=(Layout("hellozhuo/dgc", _condensenet, PARTS, _join_heads),),
)

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

family = Family(
    DynamicResNet,
    paper="arXiv:2007.04242",
    source="hellozhuo/dgc",
    layouts=(Layout("hellozhuo/dgc", _resnet, PARTS, _join_heads),),
)

family.add(
    "dgc_resnet18",
    DynamicResNetConfig(),
    Claims(12_335_144, 884.5, counted="O", top1_error=31.22, top5_error=11.38),
)
