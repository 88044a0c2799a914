"""Narrow networks of the families whose groups go to devices."""

import torch
from torch import nn

from regroup.networks.alexnet import AlexNet, AlexNetConfig
from regroup.networks.blocks import ConvNorm
from regroup.networks.condensenet import CondenseNet, CondenseNetConfig
from regroup.networks.igcv3 import LowRankBlock
from regroup.networks.resnet import ResNet, ResNetConfig
from regroup.networks.shufflenet_v1 import ShuffleNetV1, ShuffleNetV1Config


def alexnet(norm="paper", drop_rate=0.5):
    return AlexNet(
        AlexNetConfig(
            widths=(8, 12, 12, 16, 12), hidden=16, num_classes=5, norm=norm, drop_rate=drop_rate, in_chans=1
        )
    )


def resnext(small=False):
    depths, widths = ((1, 1), (16, 32)) if small else ((1, 1, 1, 1), (16, 32, 64, 128))
    return ResNet(
        ResNetConfig(depths=depths, widths=widths, groups=4, group_width=4, small=small, num_classes=5)
    )


def shufflenet(order="paper"):
    return ShuffleNetV1(
        ShuffleNetV1Config(groups=4, widths=(8, 16, 32, 64), depths=(2, 1, 1), order=order, num_classes=5)
    )


def condensenet():
    return CondenseNet(
        CondenseNetConfig(depths=(2, 2), growth=(4, 8), groups=4, factor=2, small=True, num_classes=5)
    )


def igcv3():
    """Four blocks of IGCV3, which has fifty."""
    blocks = [
        LowRankBlock(8, 8, 6, 1, 2, None),
        LowRankBlock(8, 16, 6, 2, 2, None),
        LowRankBlock(16, 16, 6, 1, 2, 4),
    ]
    head = [ConvNorm(16, 32, act="relu6"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)]
    return nn.Sequential(ConvNorm(3, 8, 3, 2, act="relu6"), *blocks, LowRankBlock(16, 16, 2, 2, 2, 4), *head)


SIZES = {
    alexnet: (1, 67, 67),
    resnext: (3, 32, 32),
    shufflenet: (3, 32, 32),
    condensenet: (3, 16, 16),
    igcv3: (3, 32, 32),
}


def started(make, seed=0, **options):
    """Return a network whose weights all count: none is zero, none so small that it drowns."""
    torch.manual_seed(seed)
    model = make(**options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.5)
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 1.5)
    return model


def batch(make, count=4):
    torch.manual_seed(1)
    return torch.randn(count, *SIZES[make]), torch.arange(count) % 5
