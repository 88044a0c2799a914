"""The search for groups by what is lost after reconstruction: outputs by assignment, inputs by swaps.

The objective is the sum of `Problem.errors` over all outputs, each served by its group's inputs. For given
inputs the best outputs are a balanced assignment, which is solved exactly; for given outputs two groups
swap an input each. Which swaps are worth trying is foreseen in closed form from one Cholesky factor a
group:

    without input a, an output loses    v_a (Q_aa)^-1 v_a^T,      Q = (S_AA + lambda I)^-1, v solved weights,
    with input b, an output gains       r_b (S_bb|A)^-1 r_b^T,    S_bb|A = S_bb - S_bA Q S_Ab,

r being the covariance of what the output misses with b. What is foreseen leaves out how a and b act
together; so a swap is kept if the objective itself, with outputs assigned anew or not, has become less.

Sources: Hassibi, Stork (NeurIPS 1992), eq. 5, for the loss; the Schur complement for the gain. Swaps between
groups: Pool, Yu, Channel permutations for N:M sparsity, NeurIPS 2021.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from regroup.conversion.leastsquares import Problem
from regroup.conversion.partition import Partition

_TRIES = 8
"""Foreseen swaps that are tried until one helps."""


def assigned(problem: Problem, inputs: Tensor) -> tuple[Partition, float]:
    """Return the best outputs for given inputs (G, width) of groups, and the error that is left."""
    errors = torch.stack([problem.errors(each) for each in inputs])  # (G, M)
    groups, outputs = errors.shape
    places = errors.repeat_interleave(outputs // groups, 0)  # M places, each for one output
    _, chosen = linear_sum_assignment(places.numpy())
    chosen = torch.from_numpy(chosen)
    return Partition(inputs, chosen.view(groups, -1)), float(places[torch.arange(outputs), chosen].sum())


def swapped(problem: Problem, part: Partition, error: float, rounds: int) -> tuple[Partition, float]:
    """Return a partition that no foreseen swap of two inputs makes better, and its error.

    Args:
        problem: the convolution.
        part: where to begin; its groups share no inputs.
        error: of it.
        rounds: swaps at most.
    """
    for _ in range(rounds):
        better = _one_swap(problem, part, error)
        if better is None:
            break
        part, error = better
    return part, error


def _one_swap(problem: Problem, part: Partition, error: float) -> tuple[Partition, float] | None:
    """Return the partition after the first of the best foreseen swaps that helps, with its error."""
    for g, h, a, b in _foreseen(problem, part):
        inputs = part.inputs.clone()
        inputs[g][inputs[g] == a], inputs[h][inputs[h] == b] = b, a
        trial, left = assigned(problem, inputs)
        if left < error * (1 - 1e-9):  # rounding must not let it go round in circles
            return trial, left
    return None


def _foreseen(problem: Problem, part: Partition) -> list[tuple[int, int, int, int]]:
    """Return the swaps (g, h, a, b) of a in group g for b in group h that promise most, the best first."""
    losses, gains = zip(*(losses_and_gains(problem, *group) for group in part), strict=True)
    owner = torch.empty(problem.kernel.shape[1], dtype=torch.int64)
    for g, inputs in enumerate(part.inputs):
        owner[inputs] = g
    lost = torch.stack(losses).sum(0)  # of each input, in its own group
    gained = torch.stack(gains)[owner]  # [a, b]: what b would give the group of a
    promise = gained + gained.t() - lost[:, None] - lost[None, :]
    promise[owner[:, None] == owner[None, :]] = -torch.inf
    best = promise.triu(1).flatten().topk(min(_TRIES, promise.numel()))
    places = best.indices[best.values > 0]
    pairs = zip((places // len(owner)).tolist(), (places % len(owner)).tolist(), strict=True)
    return [(int(owner[a]), int(owner[b]), a, b) for a, b in pairs]


def losses_and_gains(problem: Problem, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a group's error would grow by without each of its inputs, and shrink by with each other.

    Returns:
        (C,) and (C,): zeros where an input is not in the group, or is in it already.
    """
    channels, taps = problem.kernel.shape[1:]
    columns, outside = problem.columns(inputs), torch.ones(channels, dtype=torch.bool)
    outside[inputs] = False
    others = outside.nonzero().flatten()
    covariance, factor = problem.covariance, problem.factor(columns)

    missing = problem.kernel[outputs].clone()
    missing[:, inputs] = 0
    seen = missing.flatten(1) @ covariance
    added = torch.cholesky_solve(seen[:, columns].t(), factor).t()
    weights = problem.kernel[outputs][:, inputs] + added.unflatten(1, (-1, taps))
    inverse = torch.cholesky_inverse(factor)
    losses = torch.zeros(channels, dtype=torch.float64)
    losses[inputs] = _quadratic(weights, _diagonal(inverse, taps))

    gains = torch.zeros(channels, dtype=torch.float64)
    if len(others):
        away = problem.columns(others)
        between = covariance[columns[:, None], away]
        half = torch.linalg.solve_triangular(factor, between, upper=False)
        own = _diagonal(covariance[away[:, None], away], taps)
        halves = half.unflatten(1, (-1, taps)).movedim(1, 0)  # (others, columns, K)
        left = own - halves.mT @ halves
        left.diagonal(dim1=1, dim2=2).add_(problem.penalty)
        unexplained = (seen[:, away] - added @ between).unflatten(1, (-1, taps))
        gains[others] = _quadratic(unexplained, left)
    return losses, gains


def _diagonal(matrix: Tensor, taps: int) -> Tensor:
    """Return the blocks (n, K, K) on the diagonal of a matrix (n * K, n * K)."""
    n = len(matrix) // taps
    each = torch.arange(n)
    return matrix.view(n, taps, n, taps)[each, :, each]


def _quadratic(rows: Tensor, blocks: Tensor) -> Tensor:
    """Return sum over outputs of r (block)^-1 r^T for each channel: rows (M, n, K), blocks (n, K, K)."""
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(blocks), rows.permute(1, 2, 0), upper=False)
    return half.square().sum((1, 2))
