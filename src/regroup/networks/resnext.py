"""ResNeXt (arXiv:1611.05431): a ResNet whose 3x3 convolutions work in many groups.

Names say groups x group width: `resnext50_32x4d` has 32 groups of 4 channels in its first stage.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.layouts import resnet as layouts
from regroup.networks.resnet import Bottleneck, ResNet, ResNetConfig

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class SplitBottleneck(nn.Module):
    """Form (b) of a `Bottleneck`, section 3.3: as many 1x1 -> 3x3 branches as groups, then concat and 1x1.

    It computes the same function with the same weights, one branch at a time.
    """

    def __init__(self, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.whole = bottleneck

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.whole.conv1, self.whole.conv2
        groups = second.conv.groups
        reduced = [nn.functional.conv2d(x, w) for w in first.conv.weight.chunk(groups)]
        reduced = first.act(first.norm(torch.cat(reduced, 1))).chunk(groups, 1)
        weights = second.conv.weight.chunk(groups)
        branches = [
            nn.functional.conv2d(r, w, stride=second.conv.stride, padding=second.conv.padding)
            for r, w in zip(reduced, weights, strict=True)
        ]
        joined = second.act(second.norm(torch.cat(branches, 1)))
        return self.whole.act(self.whole.conv3(joined) + self.whole.shortcut(x))


PRETRAINED = {
    "resnext50_32x4d": "torchvision:ResNeXt50_32X4D_Weights.IMAGENET1K_V1",
    "resnext101_32x4d": "timm:resnext101_32x4d.gluon_in1k",
    "resnext101_64x4d": "torchvision:ResNeXt101_64X4D_Weights.IMAGENET1K_V1",
    "resnext101_32x8d": "torchvision:ResNeXt101_32X8D_Weights.IMAGENET1K_V1",
}

family = Family(ResNet, paper="arXiv:1611.05431", source="facebookresearch/ResNeXt", layouts=layouts.RESNET)

# "P": tables 3 and 4 of the paper.
for depth, groups, width, counts, errors in (
    (50, 1, 64, (25_557_032, 4089.2, "C"), (23.9, None, "R")),
    (50, 2, 40, (25_425_000, 4124.5, "C"), (23.0, None, "P")),
    (50, 4, 24, (25_292_968, 4159.8, "C"), (22.6, None, "P")),
    (50, 8, 14, (25_603_016, 4267.4, "C"), (22.3, None, "P")),
    (50, 32, 4, (25_028_904, 4230.5, "C"), (22.2, None, "R")),
    (101, 1, 64, (44_549_160, 7801.4, "C"), (22.0, None, "R")),
    (101, 2, 40, (44_456_296, 7843.6, "C"), (21.7, None, "P")),
    (101, 4, 24, (44_363_432, 7885.7, "C"), (21.4, None, "P")),
    (101, 8, 14, (45_104_328, 8076.9, "C"), (21.3, None, "P")),
    (101, 32, 4, (44_177_704, 7970.0, "C"), (21.2, None, "R")),
    (101, 1, 100, (85_611_336, 15272.9, "C"), (21.3, 5.7, "P")),
    (101, 2, 64, (84_198_184, 15123.1, "C"), (20.7, 5.5, "P")),
    (101, 64, 4, (83_455_272, 15460.3, "C"), (20.4, None, "R")),
    (101, 32, 8, (88_791_336, 16414.0, "L"), (20.688, 5.474, "L")),
    (152, 32, 4, (59_951_400, 11709.5, "C"), (None, None, "R")),
):
    name, (parameters, mega_macs, counted) = f"resnext{depth}_{groups}x{width}d", counts
    family.add(
        name,
        ResNetConfig(depths=DEPTHS[depth], groups=groups, group_width=width),
        Claims(parameters, mega_macs, (224, 224), counted, *errors),
        pretrained=PRETRAINED.get(name),
    )

SMALL = ResNetConfig(depths=(3, 3, 3), widths=(64, 128, 256), small=True, num_classes=10)

for groups, width, counts, error in (
    (32, 4, (4_775_754, 774.1, "L"), (3.15, None, "L")),
    (8, 64, (34_426_698, 5387.3, "L"), (3.65, None, "R")),
    (16, 64, (68_155_210, 10688.9, "L"), (3.58, None, "R")),
):
    config = dataclasses.replace(SMALL, groups=groups, group_width=width)
    parameters, mega_macs, counted = counts
    claims = Claims(parameters, mega_macs, (32, 32), counted, *error, data="CIFAR-10")
    family.add(f"resnext29_{groups}x{width}d", config, claims)
