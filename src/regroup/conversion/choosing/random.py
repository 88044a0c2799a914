"""Random: what every choice has to beat."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from regroup.conversion.choosing import choice
from regroup.conversion.partition import Partition


@choice("random", paper="-")
def random(kernel: Tensor, covariance: Tensor, groups: int, generator: Generator) -> Partition:
    """Return inputs and outputs dealt out at random."""
    outputs, inputs = (torch.randperm(n, generator=generator).view(groups, -1) for n in kernel.shape[:2])
    return Partition(inputs, outputs)
