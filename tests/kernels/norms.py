"""What norms mean, in float64, and how far rounding may take them, to first order."""

from __future__ import annotations

import torch
from torch import Tensor

from regroup.kernels import problems as p
from regroup.ops.bounds import unit_roundoff

U = unit_roundoff(torch.float32)

Bounded = tuple[Tensor, Tensor]
"""Numbers in float64, and how far off they may be."""


def expected(problem: p.Problem, tensors: dict[str, Tensor], parameters: dict[str, Tensor]) -> Bounded | None:
    """Return the result of a problem of `problems/channels.py`, None if it is none of them."""
    x = tensors["x"].double()
    weight, bias = (parameters[n].double() if n in parameters else None for n in ("weight", "bias"))
    match problem:
        case p.AcrossChannels(kind="max"):
            return x.amax(0, keepdim=True), 0 * x[:1]
        case p.AcrossChannels():
            count = len(x) if problem.kind == "average" else 1
            whole = x.abs().sum(0, keepdim=True) / count
            return x.sum(0, keepdim=True) / count, (len(x) + 2) * U * whole
        case p.LayerNorm():
            mean, variance = _moments(x, 0)
            scale = _scale(variance, problem.eps)
            away = _away(x, mean)
            y = _times(_times(away, scale), (weight[:, None, None], 0 * weight[:, None, None]))
            return y[0] + bias[:, None, None], y[1] + U * (y[0] + bias[:, None, None]).abs()
        case p.Moments():
            mean, variance = _moments(x.flatten(1), 1)
            return tuple(torch.cat([m, v])[:, :, None] for m, v in zip(mean, variance, strict=True))
        case p.NormScales():
            means, variances = x.view(2, problem.groups, -1)
            mean, outer = _moments(means, 1)
            inner, _ = _moments(variances, 1)
            both = outer[0] + inner[0]
            scale = _scale((both, outer[1] + inner[1] + U * both), problem.eps)
            own = _times(scale, (weight.view_as(means), 0 * means))
            shift = _times(own, mean)
            total = bias.view_as(means) - shift[0]
            results = torch.stack([own[0], total]), torch.stack([own[1], shift[1] + U * total.abs()])
            return tuple(r.flatten()[:, None, None] for r in results)
        case p.Modulate():
            scale, shift = tensors["scales"].double().view(2, -1, 1, 1)
            y = x * scale + shift
            limits = {"none": (None, None), "relu": (0, None), "relu6": (0, 6)}
            low, high = limits[problem.activation]
            error = U * (2 * (x * scale).abs() + shift.abs())
            return (y if low is None else y.clamp(low, high)), error
    return None


def _moments(x: Tensor, dim: int) -> tuple[Bounded, Bounded]:
    """Return mean and variance, summed in any order in two passes."""
    count = x.shape[dim]
    mean = x.mean(dim, keepdim=True), (count + 2) * U * x.abs().mean(dim, keepdim=True)
    away, off = _away(x, mean)
    squares = (away**2).mean(dim, keepdim=True)
    error = (2 * away.abs() * off + off**2).mean(dim, keepdim=True) + (count + 3) * U * squares
    return mean, (squares, error)


def _away(x: Tensor, mean: Bounded) -> Bounded:
    away = x - mean[0]
    return away, mean[1] + U * (away.abs() + mean[1])


def _scale(variance: Bounded, eps: float) -> Bounded:
    """Return 1 / sqrt(variance + eps); its slope is -1/2 of it by the sum."""
    whole = variance[0] + eps
    low = (whole - variance[1] - 2 * U * whole).clamp(min=eps / 2)
    return whole.rsqrt(), low.rsqrt() * (variance[1] / (2 * low) + 4 * U)


def _times(a: Bounded, b: Bounded) -> Bounded:
    product = a[0] * b[0]
    error = a[1] * (b[0].abs() + b[1]) + b[1] * a[0].abs()
    return product, error + U * (product.abs() + error)
