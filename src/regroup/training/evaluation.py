"""How good a network is on the test images of a data set, whatever its task.

>>> data = regroup.load_data("digits")
>>> model = regroup.create_model("resnet_small", num_classes=10, in_chans=1)
>>> found = evaluate(model, data)
>>> found.images, 0 <= found.top1 <= 100
(359, True)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from regroup.training.data import Batch, DataSet, Loader
from regroup.training.jackknife import LEVEL
from regroup.training.tasks import Total, task_of


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
    total: Total = lambda counts: counts,
    data: DataSet | None = None,
) -> Any:
    """Return the metrics of `model`, which is put into eval mode, on images of which is known what they show.

    Args:
        model: images (N, C, H, W) -> what the task of the data wants, such as scores (N, classes).
        batches: a data set, of which the test images are taken; or what a `Loader(..., train=False)` gives.
        batch_size: images in a batch of a data set.
        channels_last: give the images in NHWC memory order.
        total: sums a tensor over all processes, where each has a share of the images.
        data: whose images they are, where batches do not say; None: images to classify, of any classes.

    Returns:
        `regroup.training.tasks.Metrics` of the task, such as `Accuracy`.

    Raises:
        ConfigError: the network has fewer classes than the images, or gives something else.
    """
    model.eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    if isinstance(batches, DataSet):
        batches = Loader(batches, batch_size, train=False, device=device)
    if isinstance(batches, Loader):
        data = batches.data
    meter = task_of(data).meter(data)
    for batch in batches:
        meter.add(model(batch.images.contiguous(memory_format=layout)), batch)
    return meter.result(total)
