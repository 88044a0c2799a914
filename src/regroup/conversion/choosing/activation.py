"""Activation: keep what moves the outputs, by the variances that the data have."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from regroup.conversion.choosing import choice
from regroup.conversion.partition import Partition
from regroup.conversion.sorting import sorted_blocks


@choice("activation", paper="LeCun et al., Optimal Brain Damage, NeurIPS 1989")
def activation(kernel: Tensor, covariance: Tensor, groups: int, generator: Generator) -> Partition:
    """Return blocks of w_ic S_cc w_ic^T: the variance that input c alone gives output i (E2).

    With S the identity this is the square of what `magnitude` sorts.
    """
    channels, taps = kernel.shape[1:]
    each = torch.arange(channels)
    own = covariance.view(channels, taps, channels, taps)[each, :, each]
    return sorted_blocks(torch.einsum("ict,cts,ics->ic", kernel, own, kernel), groups)
