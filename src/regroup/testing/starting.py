"""What a strategy says of the weights it starts from, held against what its module computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regroup.ops.layers import CONVOLUTIONS
from regroup.ops.layers import conv as convolution
from regroup.spec import ConvSpec, Extent
from regroup.strategies import Strategy


def starts_from_dense(strategy: Strategy, spec: ConvSpec) -> str | None:
    """Require of a module made by `from_dense` that it keeps what is said to be kept, and errs as is said.

    The error is found anew, from gradients: those of the outputs of one period in the middle of an image.

    Raises:
        AssertionError: it does not.
    """
    conv = convolution(spec).double()
    if not isinstance(conv, CONVOLUTIONS):  # it pads as no module of PyTorch does
        return None
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


def _middle(spec: ConvSpec, period: int) -> tuple[Extent, Extent]:
    """Return the size of an image and the first of its outputs that see no border, at any resolution."""
    size, place = [], []
    for span, s, before in zip(spec.span, spec.stride, spec.before, strict=True):
        margin = period * (before + 1)  # a coarse pixel is as many fine ones as a period has outputs
        place.append(margin)
        size.append((margin + period + period * (max(span - before, 0) + 1)) * s + span)
    return tuple(size), tuple(place)


def _gradients(layer: nn.Module, x: Tensor, place: Extent, period: int) -> Tensor:
    """Return the gradients of the outputs of one period from `place` on: (outputs, C * size)."""
    x = x.clone().requires_grad_()
    window = (slice(first, first + period) for first in place)
    outputs = layer(x)[(0, slice(None), *window)].flatten()
    each = torch.eye(len(outputs), dtype=x.dtype)
    return torch.autograd.grad(outputs, x, each, is_grads_batched=True)[0].flatten(1)


def _equal(result: Tensor, expected: Tensor, what: str) -> None:
    """Require that two float64 results differ by no more than 2^-30 of the largest: far above rounding."""
    error, scale = float((result - expected).abs().max()), float(expected.abs().max())
    if not error <= 2.0**-30 * scale:
        raise AssertionError(f"{what} differs by {error:.3g} where values reach {scale:.3g}")
