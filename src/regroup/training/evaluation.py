"""Accuracy, loss and calibration of a network on images with labels.

>>> data = regroup.load_data("digits")
>>> model = regroup.create_model("resnet_small", num_classes=10, in_chans=1)
>>> found = evaluate(model, data)
>>> found.images, 0 <= found.top1 <= 100
(359, True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from regroup.errors import ConfigError
from regroup.training.data import Batch, DataSet, Loader

BINS = 15
"""Of the calibration error: as many as in the paper."""

LEVEL = 0.95
"""Confidence of intervals."""


@dataclass(frozen=True)
class Metrics:
    """How well a network does.

    Attributes:
        loss: mean cross-entropy.
        top1: images whose best score is their class's, in percent.
        top5: images whose class is among the best five, in percent; None for five classes or fewer.
        images: how many there were.
        ece: expected calibration error, as a share: by how much the confidence of the best class differs from
            how often it is right, in 15 bins of equal width, weighted by their images (Guo, Pleiss, Sun and
            Weinberger, On Calibration of Modern Neural Networks, 2017, equation 3).
    """

    loss: float
    top1: float
    top5: float | None
    images: int
    ece: float

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `top1`, Wilson's (1927), in percent."""
        low, high = wilson(round(self.top1 * self.images / 100), self.images)
        return 100 * low, 100 * high


def wilson(right: int, images: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the confidence interval of an accuracy, as shares: Wilson's (1927).

    >>> [round(end, 3) for end in wilson(95, 100)]
    [0.888, 0.978]

    Args:
        right: images that were classified rightly.
        images: of so many.
        level: of confidence.
    """
    from scipy.stats import binomtest

    found = binomtest(right, images).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch] | DataSet,
    *,
    batch_size: int = 64,
    channels_last: bool = False,
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> Metrics:
    """Return the metrics of `model`, which is put into eval mode, on labelled images.

    Args:
        model: images (N, C, H, W) -> scores (N, classes), before any softmax.
        batches: a data set, of which the test images are taken; or what a `Loader(..., train=False)` gives,
            where the labels are class numbers.
        batch_size: images in a batch of a data set.
        channels_last: give the images in NHWC memory order.
        total: sums a tensor over all processes, where each has a share of the images.

    Raises:
        ConfigError: the network has fewer classes than the images.
    """
    model.eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    if isinstance(batches, DataSet):
        batches = Loader(batches, batch_size, train=False, device=device)
    least = len(batches.data.classes) if isinstance(batches, Loader) else 0
    counts: Tensor | None = None
    classes = 0
    for batch in batches:
        scores = model(batch.images.contiguous(memory_format=layout)).float()
        classes = scores.shape[1]
        if classes < least:
            allowed = f"a network of {least} classes or more"
            raise ConfigError("model", type(model).__name__, allowed, f"it has {classes}")
        found = _counts(scores, batch.labels)
        counts = found if counts is None else counts + found
    if counts is None:
        counts = torch.zeros(4 + 3 * BINS, dtype=torch.float64, device=device)
    loss, first, fifth, images, *bins = total(counts).tolist()
    top5 = 100 * fifth / images if classes > 5 else None
    right, confident = bins[BINS : 2 * BINS], bins[2 * BINS :]
    ece = sum(abs(r - c) for r, c in zip(right, confident, strict=True)) / images
    return Metrics(loss / images, 100 * first / images, top5, int(images), ece)


def _counts(scores: Tensor, labels: Tensor) -> Tensor:
    """Return sum of losses, right at the first, right within five, images; one tensor, no wait for a GPU.

    And by bins of the confidence: images, those that are right, the sum of the confidence.
    """
    loss = functional.cross_entropy(scores, labels, reduction="sum")
    best = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]
    images = torch.full_like(loss, len(labels))
    confidence = scores.double().softmax(1).amax(1)
    ends = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=scores.device)[1:-1]
    bins = torch.zeros(3, BINS, dtype=torch.float64, device=scores.device)
    values = torch.stack([torch.ones_like(confidence), best[:, 0].double(), confidence])
    bins.index_add_(1, torch.bucketize(confidence, ends), values)
    plain = torch.stack([loss.double(), best[:, 0].sum(), best.sum(), images])
    return torch.cat([plain, bins.flatten()])
