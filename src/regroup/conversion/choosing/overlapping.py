"""Overlapping: each group picks its own inputs, so that an input may serve several groups and another none.

Park, Kim, Kim, Kim, Choi, Lee, Dynamic structure pruning for compressing CNNs, AAAI 2023
(arXiv:2303.09736), section 3: there learned in training; here by what the exact objective loses.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from regroup.conversion.choosing import choice
from regroup.conversion.choosing.gain import gain
from regroup.conversion.leastsquares import Problem
from regroup.conversion.partition import Partition
from regroup.conversion.search import assigned, losses_and_gains

ROUNDS = 4
"""Times that inputs and outputs are chosen in turns."""


@choice("overlapping", paper="arXiv:2303.09736")
def overlapping(kernel: Tensor, covariance: Tensor, groups: int, generator: Generator) -> Partition:
    """Return groups of C / G inputs each: those of `gain`, as long as an exchange makes them better."""
    problem = Problem(kernel, covariance)
    best, error = assigned(problem, gain(kernel, covariance, groups, generator).inputs)
    for _ in range(ROUNDS):
        inputs = torch.stack([_exchanged(problem, *group) for group in best])
        trial, left = assigned(problem, inputs)
        if left >= error * (1 - 1e-9):
            break
        best, error = trial, left
    return best


def _exchanged(problem: Problem, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return a group's inputs after exchanging them, one for one, as long as that lessens its error."""
    error = float(problem.errors(inputs, outputs).sum())
    for _ in range(2 * len(inputs)):
        losses, gains = losses_and_gains(problem, inputs, outputs)
        out, into = inputs[losses[inputs].argmin()], gains.argmax()
        trial = torch.where(inputs == out, into, inputs)
        left = float(problem.errors(trial, outputs).sum())
        if gains[into] <= 0 or left >= error * (1 - 1e-9):
            break
        inputs, error = trial, left
    return inputs
