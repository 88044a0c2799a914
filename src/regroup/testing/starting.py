"""What a strategy says of the weights it starts from, held against what its module computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regroup.spec import ConvSpec
from regroup.strategies import Strategy


def starts_from_dense(strategy: Strategy, spec: ConvSpec) -> str | None:
    """Require of a module made by `from_dense` that it keeps what is said to be kept, and errs as is said.

    The error is found anew, from gradients: those of the outputs of one period in the middle of an image.

    Raises:
        AssertionError: it does not.
    """
    if min(spec.padding) < 0:  # no nn.Conv2d has that
        return None
    shape = (spec.in_channels, spec.out_channels, spec.kernel_size, spec.stride, spec.padding, spec.dilation)
    conv = nn.Conv2d(*shape, bias=spec.bias).double()
    start = strategy.from_dense(conv)
    if start.weights == "new":
        given = type(strategy).take is not Strategy.take
        return None if given else "take is not given: it starts from new weights"
    module, (size, place) = start.module.eval(), _middle(spec, strategy.period)
    x = torch.randn(2, spec.in_channels, *size, dtype=torch.float64)
    with torch.no_grad():
        if start.weights == "kept":
            _equal(module(x), conv(x), "weights are said to be kept, and its output")
            return None
        blank = module(torch.zeros_like(x))
        _equal(module(-x) - blank, blank - module(x), "it is not linear: its output")
    found, wanted = (_gradients(layer, x[:1], place, strategy.period) for layer in (module, conv))
    error = float((found - wanted).norm() / wanted.norm())
    if start.error is None or not abs(start.error - error) <= 2.0**-30:
        raise AssertionError(f"the error of its weights is {error:.6g}, not {start.error}")
    return None


def _middle(spec: ConvSpec, period: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size of an image and the first of its outputs that see no border, at any resolution."""
    size, place = [], []
    for k, s, p, d in zip(spec.kernel_size, spec.stride, spec.padding, spec.dilation, strict=True):
        margin = period * (d * (k - 1) + p + 2)
        place.append(margin)
        size.append((2 * margin + period) * s + d * (k - 1))
    return (size[0], size[1]), (place[0], place[1])


def _gradients(layer: nn.Module, x: Tensor, place: tuple[int, int], period: int) -> Tensor:
    """Return the gradients of the outputs of one period from `place` on: (outputs, C, H, W)."""
    x = x.clone().requires_grad_()
    rows, columns = (slice(first, first + period) for first in place)
    outputs = layer(x)[0, :, rows, columns].flatten()
    each = torch.eye(len(outputs), dtype=x.dtype)
    return torch.autograd.grad(outputs, x, each, is_grads_batched=True)[0].flatten(1)


def _equal(result: Tensor, expected: Tensor, what: str) -> None:
    """Require that two float64 results differ by no more than 2^-30 of the largest: far above rounding."""
    error, scale = float((result - expected).abs().max()), float(expected.abs().max())
    if not error <= 2.0**-30 * scale:
        raise AssertionError(f"{what} differs by {error:.3g} where values reach {scale:.3g}")
