"""Separable weights in closed form from data: the filters that matter to the outputs, then the mixing solved.

Input channel c has the kernel W_c (M, K) and the covariance S_cc = L L^T of what it shows the taps. The m
filters F_c (m, K) and mixing U_c (M, m) with the least E |(W_c - U_c F_c) x_c|^2 are the truncated singular
value decomposition of W_c L, taken back by L^-1: of the trained kernel alone if inputs were white, which
they are not. What channels say together is then used by solving the mixing of all of them at once, drawn
towards U,

    P = U + (W S F^T - U F S F^T) (F S F^T + lambda I)^-1,

with F the filters of all channels, block-diagonal. Sources: Eckart, Young, Psychometrika 1(3), 1936; Guo,
Li, Lin, Chen, Li, Network decoupling, BMVC 2018 (arXiv:1808.05517), for the decomposition without data.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from regroup.conversion.leastsquares import RIDGE, centred_bias, compensated, relative_error
from regroup.conversion.statistics import Moments
from regroup.ops.layers import give
from regroup.ops.nearest import factors
from regroup.spec import ConvSpec
from regroup.strategies import Strategy
from regroup.strategies.separable import ORDERS, Separable


def can_separate(strategy: Strategy) -> bool:
    """Tell whether a strategy filters each channel, then mixes, with nothing between."""
    plain = isinstance(strategy, Separable) and strategy.order == ORDERS[0]
    return plain and not strategy.norm and strategy.act == "none"  # type: ignore[attr-defined]


def separated(conv: nn.Conv2d, strategy: Separable, moments: Moments) -> tuple[nn.Module, float]:
    """Return a separable module that stands in for a dense convolution, and its error by the moments."""
    spec = replace(ConvSpec.of(conv), bias=True)
    kernel = compensated(conv.weight.detach().cpu().double().flatten(2), moments)
    filters, mixing = solved(kernel, moments.inputs, strategy.multiplier)
    dense = torch.einsum("mcj,cjk->mck", mixing, filters)
    module = strategy.build(spec).to(conv.weight)
    first, _, second = module  # type: ignore[misc]
    give(first, filters)
    give(second, mixing, centred_bias(dense, moments))
    return module.train(conv.training), relative_error(dense, moments)


def solved(
    kernel: Tensor, covariance: Tensor, multiplier: int, ridge: float = RIDGE
) -> tuple[Tensor, Tensor]:
    """Return filters (C, m, K) and mixing (M, C, m) for a dense kernel (M, C, K).

    Args:
        kernel: float64.
        covariance: (C * K, C * K) of the unfolded inputs.
        multiplier: filters of each channel, m.
        ridge: lambda over the mean variance of what the filters give; of the inputs, within a channel.
    """
    outputs, channels, taps = kernel.shape
    each = torch.arange(channels)
    own = covariance.view(channels, taps, channels, taps)[each, :, each].clone()
    own.diagonal(dim1=1, dim2=2).add_(ridge * float(covariance.diagonal().mean()) or 1.0)
    root = torch.linalg.cholesky(own)
    left, right = factors(kernel.movedim(1, 0) @ root, multiplier)
    rank = right.shape[1]  # less than m where there are fewer taps
    filters, mixing = (
        kernel.new_zeros(shape) for shape in ((channels, multiplier, taps), (channels, outputs, multiplier))
    )
    filters[:, :rank] = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    mixing[..., :rank] = left
    spread = torch.block_diag(*filters)  # (C m, C K)
    shown = spread @ covariance @ spread.t()
    start = mixing.movedim(0, 1).flatten(1)
    off = kernel.flatten(1) @ covariance @ spread.t() - start @ shown
    shown.diagonal().add_(ridge * float(shown.diagonal().mean()) or 1.0)
    change = torch.cholesky_solve(off.t(), torch.linalg.cholesky(shown)).t()
    return filters, (start + change).unflatten(1, (channels, multiplier))
