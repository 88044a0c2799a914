"""Contiguous: neighbours make up a group, as in a grouped convolution that nobody has asked which."""

from __future__ import annotations

from torch import Generator, Tensor

from regroup.conversion.choosing import choice
from regroup.conversion.partition import Partition


@choice("contiguous", paper="Krizhevsky et al., NeurIPS 2012")
def contiguous(kernel: Tensor, covariance: Tensor, groups: int, generator: Generator) -> Partition:
    """Return the first C / G inputs with the first M / G outputs, and so on."""
    return Partition.contiguous(kernel.shape[1], kernel.shape[0], groups)
