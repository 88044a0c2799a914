"""What a conversion has done to a network, measured on images without labels.

>>> original = torchvision.models.resnet18().eval()
>>> images = [torch.randn(2, 3, 64, 64)]
>>> apart(original, original, ["layer1.0.conv1"], images)
{'layer1.0.conv1': 0.0}
>>> divergence(original, original, images) < 1e-6
True
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.conversion.statistics import evaluated, heard


def apart(
    model: nn.Module, original: nn.Module, layers: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, float]:
    """Return how far the outputs of layers are from the original's: squared distance over the variance.

    Each network runs by itself, so a layer has the damage of those before it too.

    Args:
        model: the converted network.
        original: the trained one.
        layers: names that both have, whatever stands there.
        batches: images (N, channels, height, width).
    """
    missed, squares, counts = (dict.fromkeys(layers, 0.0) for _ in range(3))
    sums = {name: torch.zeros((), dtype=torch.float64) for name in layers}
    for images in batches:
        pairs = zip(_outputs(original, layers, images), _outputs(model, layers, images), strict=True)
        for (name, y), (_, found) in pairs:
            y = y.double()
            missed[name] += float((found - y).square().sum())
            sums[name] = sums[name] + y.sum((0, 2, 3))  # of each channel
            squares[name] += float(y.square().sum())
            counts[name] += y.numel() / y.shape[1]
    variances = {name: squares[name] - float(sums[name].square().sum()) / counts[name] for name in layers}
    return {name: missed[name] / max(variances[name], 1e-300) for name in layers}


def shares(model: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """Return the logarithms of the shares that a model's scores give to classes: (N, classes), float64."""
    with evaluated(model), torch.no_grad():
        return [F.log_softmax(model(images).double(), 1) for images in batches]


def divergence(model: nn.Module, original: nn.Module | Sequence[Tensor], batches: Iterable[Tensor]) -> float:
    """Return the mean over images of KL(original || model), of what their scores say of classes, in nats.

    Args:
        model: the converted network.
        original: the trained one, or its `shares` of the same images, for one that is asked for often.
        batches: images (N, channels, height, width).
    """
    total, count = 0.0, 0
    for i, images in enumerate(batches):
        wanted = shares(original, [images])[0] if isinstance(original, nn.Module) else original[i]
        (found,) = shares(model, [images])
        total += float(F.kl_div(found, wanted, reduction="sum", log_target=True))
        count += len(images)
    return total / max(count, 1)


def _outputs(model: nn.Module, layers: Sequence[str], images: Tensor) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []

    def keep(name: str, inputs: tuple, output: Tensor) -> None:
        found.append((name, output.clone()))

    modules = {name: model.get_submodule(name) for name in layers}
    with evaluated(model), torch.no_grad(), heard(modules, after=keep):
        model(images)
    return found
