"""Accuracy and loss of a network on images with labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from regroup.training.data import Batch


@dataclass(frozen=True)
class Metrics:
    """How well a network does.

    Attributes:
        loss: mean cross-entropy.
        top1: images whose best score is their class's, in percent.
        top5: images whose class is among the best five, in percent; None for five classes or fewer.
        images: how many there were.
    """

    loss: float
    top1: float
    top5: float | None
    images: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    channels_last: bool = False,
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> Metrics:
    """Return the metrics of `model`, which is put into eval mode, over `batches`.

    Args:
        model: images (N, C, H, W) -> scores (N, classes).
        batches: what a `Loader(..., train=False)` gives; the labels are class numbers.
        channels_last: give the images in NHWC memory order.
        total: sums a tensor over all processes, where each has a share of the images.
    """
    model.eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    counts: Tensor | None = None
    classes = 0
    for batch in batches:
        scores = model(batch.images.contiguous(memory_format=layout)).float()
        classes = scores.shape[1]
        found = _counts(scores, batch.labels)
        counts = found if counts is None else counts + found
    if counts is None:
        counts = torch.zeros(4, dtype=torch.float64, device=next(model.parameters()).device)
    loss, first, fifth, images = total(counts).tolist()
    top5 = 100 * fifth / images if classes > 5 else None
    return Metrics(loss / images, 100 * first / images, top5, int(images))


def _counts(scores: Tensor, labels: Tensor) -> Tensor:
    """Return sum of losses, right at the first, right within five, images: one tensor, no wait for a GPU."""
    loss = functional.cross_entropy(scores, labels, reduction="sum")
    best = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]
    images = torch.full_like(loss, len(labels))
    return torch.stack([loss.double(), best[:, 0].sum(), best.sum(), images])
