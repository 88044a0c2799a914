r"""Grouped weights in closed form: the least squares solution, its error, and what each output gains.

For a group with inputs A, an output with the dense kernel w (a row over all unfolded inputs x, covariance
S) is served by a kernel v on A. With what is missing, m = w outside of A, and what is added, d = v - w_A:

    E (w x - v x_A)^2 = m S m^T - 2 m S_{:,A} d^T + d S_AA d^T        (E1: x without its mean)

and the least of that plus lambda |d|^2 is at

    d = m S_{:,A} (S_AA + lambda I)^-1,    error(A) = m S m^T - m S_{:,A} (S_AA + lambda I)^-1 S_{A,:} m^T.

So the ridge draws towards the trained weights and not towards zero: with one group nothing is changed, and
a kernel that is grouped already is found with error zero, whatever lambda is. For lambda = 0 this is the
reconstruction of ThiNet and of channel pruning, and the update of Optimal Brain Surgeon for a whole block
of weights.

Sources: He, Zhang, Sun, Channel pruning (arXiv:1707.06168), and Luo, Wu, Lin, ThiNet (arXiv:1707.06342),
for the reconstruction by least squares; Hassibi, Stork, Optimal Brain Surgeon, NeurIPS 1992, eq. 5;
Frantar, Singh, Alistarh, Optimal Brain Compression (arXiv:2208.11580), for blocks of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regroup.conversion.partition import Partition
from regroup.conversion.statistics import Moments

RIDGE = 0.01
"""lambda, as a share of the mean variance of the inputs."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A dense convolution as a linear map, and how its inputs vary.

    Args:
        kernel: (M, C, K), K = R * S taps; float64.
        covariance: (C * K, C * K) of the unfolded inputs; float64.
        ridge: lambda as a share of the mean variance.
    """

    kernel: Tensor
    covariance: Tensor
    ridge: float = RIDGE

    @property
    def penalty(self) -> float:
        """Lambda itself; of inputs that never vary, a number that only keeps matrices regular."""
        return self.ridge * float(self.covariance.diagonal().mean()) or 1.0

    @property
    def power(self) -> Tensor:
        """Variance of each output, (M,)."""
        rows = self.kernel.flatten(1)
        return ((rows @ self.covariance) * rows).sum(1)

    def columns(self, channels: Tensor) -> Tensor:
        """Return where the taps of some channels stand among unfolded inputs: (channels * K,)."""
        taps = self.kernel.shape[2]
        return (channels[:, None] * taps + torch.arange(taps)).flatten()

    def factor(self, columns: Tensor) -> Tensor:
        """Return the Cholesky factor of S_AA + lambda I."""
        inside = self.covariance[columns[:, None], columns].clone()
        inside.diagonal().add_(self.penalty)
        return torch.linalg.cholesky(inside)

    def errors(self, inputs: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Return the error of each output (all, or some) if it is served by a group that reads `inputs`.

        It is the least of the squared error and the penalty together, as above.
        """
        missing = self._missing(inputs, outputs)
        columns = self.columns(inputs)
        seen = missing @ self.covariance
        half = torch.linalg.solve_triangular(self.factor(columns), seen[:, columns].t(), upper=False)
        return ((seen * missing).sum(1) - half.square().sum(0)).clamp_min(0)

    def solve(self, part: Partition) -> Tensor:
        """Return the weights of all groups: (M, width, K), rows in the order of `part.outputs`."""
        solved = []
        for inputs, outputs in part:
            columns = self.columns(inputs)
            across = (self._missing(inputs, outputs) @ self.covariance)[:, columns]
            added = torch.cholesky_solve(across.t(), self.factor(columns)).t()
            solved.append(self.kernel[outputs][:, inputs] + added.unflatten(1, (len(inputs), -1)))
        return torch.cat(solved)

    def masked(self, part: Partition) -> Tensor:
        """Return the trained weights that lie in the groups, as they are: (M, width, K), likewise."""
        return torch.cat([self.kernel[outputs][:, inputs] for inputs, outputs in part])

    def _missing(self, inputs: Tensor, outputs: Tensor | None) -> Tensor:
        missing = self.kernel.clone() if outputs is None else self.kernel[outputs]
        missing[:, inputs] = 0
        return missing.flatten(1)


def spread_out(weights: Tensor, part: Partition, in_channels: int) -> Tensor:
    """Return grouped weights (M, width, K) as the dense kernel (M, C, K), with zeros between groups."""
    dense = weights.new_zeros(len(weights), in_channels, weights.shape[2])
    rows = weights.unflatten(0, (part.groups, -1))
    for (inputs, outputs), values in zip(part, rows, strict=True):
        dense[outputs[:, None], inputs] = values
    return dense


def squared_error(kernel: Tensor, moments: Moments) -> Tensor:
    """Return E (y - k x)^2 of each output, without means, for a dense kernel k (M, C, K): (M,)."""
    rows = kernel.flatten(1)
    explained = (rows * (moments.cross * 2 - rows @ moments.inputs)).sum(1)
    return (moments.targets - explained).clamp_min(0)


def relative_error(kernel: Tensor, moments: Moments) -> float:
    """Return the share of the wanted outputs' variance that a kernel misses, all outputs together."""
    return float(squared_error(kernel, moments).sum() / moments.targets.sum().clamp_min(1e-300))


def compensated(kernel: Tensor, moments: Moments, ridge: float = RIDGE) -> Tensor:
    """Return the dense kernel that makes the wanted outputs from the inputs as they are now: (M, C, K).

    Where earlier layers have been changed, the original kernel is no longer the best. The new one is

        w + (cov(y, x) - w S) (S + lambda I)^-1,

    drawn towards the original; where nothing was changed, cov(y, x) = w S, and it is the original. Choosing
    and solving groups for this kernel is choosing and solving them for the wanted outputs, for both see x
    alone.

    Source: He, Zhang, Sun (arXiv:1707.06168), the asymmetric reconstruction of whole-model pruning.
    """
    problem = Problem(kernel, moments.inputs, ridge)
    rows = kernel.flatten(1)
    off = moments.cross - rows @ moments.inputs
    factor = problem.factor(torch.arange(rows.shape[1]))
    return (rows + torch.cholesky_solve(off.t(), factor).t()).view_as(kernel)


def centred_bias(kernel: Tensor, moments: Moments) -> Tensor:
    """Return the bias with which a dense kernel (M, C, K) gives outputs of the wanted mean (E1): (M,)."""
    return moments.target_mean - kernel.flatten(1) @ moments.input_mean
