"""Means and variances of batch norms, estimated anew: what layers before them give has changed.

A norm gets the mean of the batches' means, and of the variances within each batch. That the means of batches
vary is not in it: so batches should be of images drawn at random, and not small.

>>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
>>> images = torch.randn(64, 3, 8, 8)
>>> reestimate(model, [images])
1
>>> model(images).mean((0, 2, 3)).abs().max().item() < 1e-5
True

Source: for pruned networks, Li et al., EagleEye, ECCV 2020 (arXiv:2007.02491).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regroup.conversion.statistics import evaluated

_TOGETHER = 64
"""Images in a batch, at most, where single ones are put together."""


def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Give every batch norm that runs the mean of the batches' means and variances; return how many do.

    All of them at once, each seeing what those before it make of the same batch. Everything else stays in
    eval mode, dropout too, and so do norms that do not run, as those of heads for training alone. Batches
    should be of one size, and not small; single images are put together.
    """
    found = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not found:
        return 0
    before = [(norm.momentum, copy.deepcopy(dict(norm.named_buffers()))) for norm in found]
    ran = 0
    with evaluated(model), torch.no_grad():
        try:
            for norm in found:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean of all batches
                norm.train()
            for images in _several(list(batches)):
                model(images)
        finally:
            for norm, (momentum, buffers) in zip(found, before, strict=True):
                norm.momentum = momentum
                if norm.num_batches_tracked:
                    ran += 1
                else:
                    norm.load_state_dict(buffers, strict=False)
    return ran


def _several(batches: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return batches of several images each: of a single one, a norm of 1x1 pixels knows no variance."""
    if all(len(images) > 1 for images in batches):
        return batches
    images = torch.cat(list(batches))
    return images.tensor_split(-(-len(images) // _TOGETHER))
