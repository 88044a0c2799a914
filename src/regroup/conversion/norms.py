"""Means and variances of batch norms, estimated anew: what layers before them give has changed.

>>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
>>> images = torch.randn(64, 3, 8, 8)
>>> reestimate(model, [images])
1
>>> model(images).mean((0, 2, 3)).abs().max().item() < 1e-5
True

Source: for pruned networks, Li et al., EagleEye,
ECCV 2020 (arXiv:2007.02491).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regroup.conversion.statistics import evaluated


def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Give every batch norm the mean of the batches' means and variances; return how many there are.

    All of them at once, each seeing what those before it make of the same batch. Everything else stays in
    eval mode, dropout too. Batches should be of one size, and not small.
    """
    found = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    momenta = [norm.momentum for norm in found]
    if not found:
        return 0
    with evaluated(model), torch.no_grad():
        for norm in found:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
            norm.train()
        for images in batches:
            model(images)
    for norm, momentum in zip(found, momenta, strict=True):
        norm.momentum = momentum
    return len(found)
