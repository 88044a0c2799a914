"""Magnitude: keep as much of the weights' norm in the groups as sorting can. The data play no part."""

from __future__ import annotations

from torch import Generator, Tensor

from regroup.conversion.choosing import choice
from regroup.conversion.partition import Partition
from regroup.conversion.sorting import sorted_blocks


@choice("magnitude", paper="arXiv:1811.09341")
def magnitude(kernel: Tensor, covariance: Tensor, groups: int, generator: Generator) -> Partition:
    """Return the groups of gconv-prune: its saliency is each filter's Frobenius norm, over that of all."""
    norms = kernel.norm(dim=2)
    return sorted_blocks(norms / norms.norm().clamp_min(1e-300), groups)
