"""Modules without numbers: built, run and counted on the meta device, in a part of the time.

>>> from regroup.networks import create_model
>>> with without_numbers():
...     y = create_model("resnet50")(torch.empty(1, 3, 224, 224))
>>> y.shape, y.is_meta
(torch.Size([1, 1000]), True)

Of norms and activations without numbers PyTorch finds the results in Python, from operators that they could
be made of, and so it draws random numbers that nobody stores: a millisecond each. `result_of` knows them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

Call = tuple[Any, ...]
"""The positional arguments of an operator."""


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Make tensors on the meta device, unless told otherwise, and compute with those there by `result_of`."""
    with torch.device("meta"), _Shapes():
        yield


class _Shapes(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return result_of(func, args, kwargs or {})


def result_of(func: Any, args: Call, kwargs: dict[str, Any]) -> Any:
    """Return what an operator gives, as PyTorch does; quickly where tensors have no numbers.

    Args:
        func: the operator as a `TorchDispatchMode` gets it.
        args: its positional arguments.
        kwargs: its arguments by name.
    """
    x = args[0] if args else None
    # nothing else is known to be floating point, in place of numbers that there are
    if isinstance(x, Tensor) and (x.is_meta or type(x) is FakeTensor) and x.is_floating_point():
        known = _RESULTS.get(func)
        found = None if known is None else known(args)
        if found is not None:
            return found
    return func(*args, **kwargs)


def _alike(args: Call) -> Tensor:
    return torch.empty_like(args[0])


def _itself(args: Call) -> Tensor:
    return args[0]


def _norm(args: Call, training: bool = False) -> tuple[Tensor, ...] | None:
    """Return the result of a batch norm whose tensors have one type; in training with its statistics."""
    x, *others = args[:5]
    if any(t is not None and t.dtype != x.dtype for t in others) or (training and x.itemsize < 4):
        return None
    return torch.empty_like(x), *(x.new_empty(x.shape[1] if training else 0) for _ in range(2))


def _either_norm(args: Call) -> tuple[Tensor, ...] | None:
    return _norm(args, args[5])


def _elementwise(args: Call) -> Tensor | None:
    """Return the result of two tensors, or of a tensor and a number, that is as the first is."""
    x, other = args[:2]
    if isinstance(other, Tensor):
        fits = other.dtype == x.dtype and other.device == x.device and other.dim() == x.dim()
        fits = fits and x.is_contiguous() and other.is_contiguous()
        if not fits or any(m not in (n, 1) for m, n in zip(other.shape, x.shape, strict=True)):
            return None
    elif isinstance(other, complex):
        return None
    return torch.empty_like(x)


def _convolution(args: Call) -> Tensor | None:
    """Return the result of a convolution that is not transposed; PyTorch knows the errors of others."""
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    others = [weight] if bias is None else [weight, bias]
    if transposed or any((t.dtype, t.shape[0]) != (x.dtype, weight.shape[0]) for t in others):
        return None
    if x.dim() != weight.dim() or x.shape[1] != weight.shape[1] * groups:
        return None
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=False)
    ]
    return x.new_empty(x.shape[0], weight.shape[0], *sizes) if min(sizes, default=0) > 0 else None


_RESULTS: dict[Any, Callable[[Call], Any]] = {
    _aten.native_batch_norm.default: _either_norm,
    _aten._native_batch_norm_legit_no_training.default: _norm,
    _aten.convolution.default: _convolution,
    **dict.fromkeys((_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor), _elementwise),
}
"""What an operator gives, by its arguments; None where PyTorch is to be asked."""

_ACTIVATIONS = "elu gelu hardsigmoid hardswish hardtanh leaky_relu mish relu sigmoid silu softplus tanh"
_RESULTS |= {getattr(_aten, name).default: _alike for name in _ACTIVATIONS.split()}

_FILLING = "clamp_ elu_ erfinv_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_ mish_ normal_ sigmoid_ uniform_"
_RESULTS |= {getattr(_aten, name).default: _itself for name in _FILLING.split()}
