"""Gain: the groups that lose least once their weights are reconstructed, by the exact objective (E3).

Outputs go to groups by balanced assignment, inputs by swaps, from several starts; see
`regroup.conversion.search`.
"""

from __future__ import annotations

from torch import Generator, Tensor

from regroup.conversion.choosing import choice
from regroup.conversion.choosing.activation import activation
from regroup.conversion.choosing.magnitude import magnitude
from regroup.conversion.choosing.random import random
from regroup.conversion.leastsquares import Problem
from regroup.conversion.partition import Partition
from regroup.conversion.search import assigned, swapped

ROUNDS = 200
"""Swaps at most."""


@choice("gain", paper="-")
def gain(kernel: Tensor, covariance: Tensor, groups: int, generator: Generator) -> Partition:
    """Return the best that swaps make of the best start: contiguous, sorted by either saliency, or random."""
    problem = Problem(kernel, covariance)
    begin = (magnitude, activation, random, random)
    starts = [Partition.contiguous(kernel.shape[1], kernel.shape[0], groups)]
    starts += [each(kernel, covariance, groups, generator) for each in begin]
    tried = [assigned(problem, start.inputs) for start in starts]
    part, _ = swapped(problem, *min(tried, key=lambda pair: pair[1]), ROUNDS)
    return part
