"""Networks for the engine's tests: published ones with random statistics, and random ones."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regroup.networks import create_model

BATCH = 5
"""Batch size of recordings: one that no network here has as a number of its own."""


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give normalisation layers statistics that matter, and CondenseNet's indices channels to choose."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.normal_(0, 0.1, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("index"):
                buffer.copy_(torch.randperm(buffer.numel(), generator=generator))
    return model.eval()


def settle(model: nn.Module, x: torch.Tensor) -> None:
    """Give batch norms the statistics of images like `x`, so that numbers keep their size, as after training.

    Otherwise they grow from block to block until all gates are 0 or 1; a rounding turns one over, and how far
    that leads is chance, in PyTorch as here.
    """
    norms = [module for module in model.modules() if getattr(module, "running_mean", None) is not None]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model(torch.randn(8, *x.shape[1:]))
    for norm in norms:
        norm.eval()


def load(name: str) -> nn.Module:
    """Return `library:model` with random weights, able to take small images."""
    library, model = name.split(":")
    torch.manual_seed(0)
    if library == "timm":
        import timm

        return randomise(timm.create_model(model))
    if library == "torchvision":
        import torchvision

        options = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
        return randomise(getattr(torchvision.models, model)(**options))
    if library == "regroup":
        return randomise(create_model(model))
    if library == "smp":
        import segmentation_models_pytorch as smp

        decoder, encoder = model.split("/")
        return randomise(getattr(smp, decoder)(encoder, encoder_weights=None))
    from pytorchcv.model_provider import get_model

    network = get_model(model)
    if hasattr(network.features, "final_pool"):
        network.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return randomise(network)


class Shuffle(nn.Module):
    """Channel shuffle."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Gate(nn.Module):
    """Squeeze-and-excitation of integers: relu6 instead of sigmoid, maximum instead of mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.relu6(self.fc(F.adaptive_max_pool2d(x, 1)))


class RandomNet(nn.Module):
    """A network made of a list of numbers: (what, which value, which number) per layer.

    With integer-valued inputs every number in it is an integer; most are small.
    """

    CHANNELS = 12

    def __init__(self, program: list[tuple[int, int, int]], seed: int = 0) -> None:
        super().__init__()
        self.program = program
        self.layers = nn.ModuleList()
        generator = torch.Generator().manual_seed(seed)
        for what, _, number in program:
            self.layers.append(self._layer(what, number))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=generator).float())
        self.eval()

    def _layer(self, what: int, number: int) -> nn.Module:
        c, groups = self.CHANNELS, (1, 2, 3, 4, 6, 12)[number % 6]
        layer = self._plain_layer(what, number, c, groups)
        return nn.Sequential(layer, nn.ReLU6()) if what <= 2 and number % 4 else layer

    def _plain_layer(self, what: int, number: int, c: int, groups: int) -> nn.Module:
        return {
            0: lambda: nn.Conv2d(c, c, 1, groups=groups, bias=bool(number % 2)),
            1: lambda: nn.Conv2d(c, c, 3, padding=1, groups=groups),
            2: lambda: nn.Conv2d(c, c, 5, padding=2 + 2 * (number % 2), dilation=1 + number % 2, groups=c),
            3: lambda: Shuffle(groups),
            4: lambda: nn.MaxPool2d(3, 1, 1),
            5: lambda: Gate(c),
            6: lambda: nn.ReLU(inplace=bool(number % 2)) if number % 3 else nn.PReLU(c),
        }.get(what, nn.Identity)()

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for (what, which, number), layer in zip(self.program, self.layers, strict=True):
            a, b = values[which % len(values)], values[-1]
            if what <= 6:
                y = layer(b.clone() if what == 6 else b)
            elif what == 7:
                y = a + b
            elif what == 8:  # concat and take half, as ShuffleNet V2 does
                half = self.CHANNELS // 2
                y = torch.cat([a[:, half:], b[:, :half]], 1)
            elif what == 9:
                parts = b.chunk(3, 1)
                y = torch.cat([parts[number % 3], F.relu(parts[1]), parts[2]], 1)
            else:
                y = b[:, random.Random(number).sample(range(self.CHANNELS), self.CHANNELS)]
            values.append(y)
        return values[-1].clone()  # a result that shares memory with the input is left to PyTorch


def channels_last(x: Tensor, numbers: Tensor) -> Tensor:
    """Return what ConvNeXt's blocks do behind a permutation."""
    weight = torch.ones(5, 12).to(x), torch.ones(12, 5).to(x)
    turned = x.permute(0, 2, 3, 1)
    y = F.linear(F.relu(F.linear(turned, weight[0], numbers[:5].to(x))), weight[1]) * numbers.to(x)
    return (y + turned).permute(0, 3, 1, 2)


def taken_apart(x: Tensor) -> Tensor:
    """Return what gates do to channels that are last."""
    a, b, c = x.split((6, 4, 2), -1)
    return torch.cat([c, b], 3).relu() * a
