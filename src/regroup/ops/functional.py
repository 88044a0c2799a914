"""The convolution in groups, of one, two or three dimensions, as functions of tensors.

>>> x, weight = torch.randn(1, 8, 5, 5), torch.randn(6, 4, 3, 3)
>>> conv2d(x, weight, padding=1, groups=2).shape
torch.Size([1, 6, 5, 5])
>>> call_of(x, weight, padding=1, groups=2).macs
5400

They compute what those of `torch.nn.functional` compute, and can be differentiated any number of times
(forward-mode derivatives are PyTorch's convolutions), compiled, exported, traced and mapped (`torch.vmap`).
Each of their three passes (forward, gradient of the input, gradient of the weights) is computed by the
backend that is expected to be the quickest: `backends.py`.

Shape letters: N images, C input channels, K output channels, G groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from regroup.errors import SpecError
from regroup.ops.operator import complex_convolution, convolution
from regroup.ops.passes import Call, memory_format
from regroup.spec import integer

Sizes = int | Sequence[int]


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve inside each of `groups` groups of channels, over one, two or three dimensions.

    Args:
        x: (N, C, *size) or (C, *size).
        weight: (K, C / groups, *kernel size); rows g*K/groups ... belong to group g.
        bias: (K,) or None.
        stride: step of the window, one number or one for each dimension.
        padding: zeros on both sides; negative numbers crop. "valid" is none, "same" as many as keep the size
            (one more at the end where their number is odd), for stride 1.
        dilation: distance between kernel taps.
        groups: number of groups; divides both C and K.

    Returns:
        (N, K, *out) or (K, *out), in the memory format of x.

    Raises:
        SpecError: shapes, groups and kernel, or types of the tensors, do not fit together.
    """
    if has_torch_function((x, weight, bias)):  # torch.fx, subclasses of Tensor
        args = x, weight, bias, stride, padding, dilation, groups
        return handle_torch_function(conv, (x, weight, bias), *args)
    rank = weight.dim() - 2
    if rank not in (1, 2, 3):
        raise SpecError("weight.dim()", weight.dim(), "3 to 5: (K, C / groups, *kernel size)")
    if x.dim() == rank + 1:
        return conv(x[None], weight, bias, stride, padding, dilation, groups)[0]
    if x.dim() != rank + 2:
        raise SpecError("x.dim()", x.dim(), f"{rank + 2}, or {rank + 1} for one without a batch")
    x, steps, zeros, distances = _sizes(x, weight, stride, padding, dilation)
    if not x.is_meta and torch.is_autocast_enabled(x.device.type):
        x, weight, bias = _lowered(x), _lowered(weight), None if bias is None else _lowered(bias)
    groups = _divisor(groups, x.shape[1], weight.shape[0])
    _check(x, weight, bias, steps, zeros, distances, groups)
    if forward_ad._current_level >= 0:  # PyTorch has no way to say a forward-mode derivative of an operator
        return torch.convolution(x, weight, bias, steps, zeros, distances, False, [0] * rank, groups)
    if x.is_complex():
        return complex_convolution(x, weight, bias, steps, zeros, distances, groups)
    return convolution(x, weight, bias, steps, zeros, distances, groups)


def _of_rank(rank: int, name: str, shapes: str) -> Callable[..., Tensor]:
    @functools.wraps(conv)
    def ranked(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if has_torch_function((x, weight)):
            return handle_torch_function(ranked, (x, weight), x, weight, *args, **kwargs)
        if weight.dim() != rank + 2:
            raise SpecError("weight.dim()", weight.dim(), f"{rank + 2}: (K, C / groups, *kernel size)")
        return conv(x, weight, *args, **kwargs)

    ranked.__name__ = ranked.__qualname__ = name
    ranked.__doc__ = f"Convolve {shapes}: `conv` with the arguments of torch.nn.functional.{name}."
    return ranked


def _no_script() -> None:
    allowed = "one that TorchScript knows, and it does not know this one"
    remedy = "decelerate(model) before torch.jit.script, or use torch.jit.trace or torch.export"
    raise SpecError("function", "regroup.ops.conv", allowed, remedy)


conv1d = _of_rank(1, "conv1d", "sequences (N, C, L)")
conv2d = _of_rank(2, "conv2d", "images (N, C, H, W)")
conv3d = _of_rank(3, "conv3d", "volumes (N, C, D, H, W)")

for _function in (conv, conv1d, conv2d, conv3d):
    vars(_function)["__prepare_scriptable__"] = _no_script  # which torch.jit.script calls first


def call_of(
    x: Tensor,
    weight: Tensor,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Call:
    """Return what backends are asked for by `conv` of the same arguments, x being (N, C, *size)."""
    x, steps, zeros, distances = _sizes(x, weight, stride, padding, dilation)
    divisor = _divisor(groups, x.shape[1], weight.shape[0])
    _check(x, weight, None, steps, zeros, distances, divisor)
    places = tuple(steps), tuple(zeros), tuple(distances)
    last = memory_format(x) is not torch.contiguous_format
    return Call(tuple(x.shape), tuple(weight.shape), *places, divisor, x.dtype, x.device.type, last)


def _sizes(
    x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes | str, dilation: Sizes
) -> tuple[Tensor, list[int], list[int], list[int]]:
    """Return the input, cropped or padded as no operator does it, and steps, zeros, distances."""
    rank = weight.dim() - 2
    steps, distances = _numbers("stride", stride, rank), _numbers("dilation", dilation, rank)
    # of a single tap it means nothing, but oneDNN (3.12, float16) then reads where no memory is
    distances = [1 if k == 1 else d for k, d in zip(weight.shape[2:], distances, strict=True)]
    if isinstance(padding, str):
        x, zeros = _padded(x, weight.shape[2:], padding, steps, distances)
    else:
        x, zeros = _cropped(x, _numbers("padding", padding, rank))
    return x, steps, zeros, distances


def _numbers(name: str, value: object, rank: int) -> list[int]:
    """Return one number for each dimension."""
    numbers = list(map(_integer, value)) if isinstance(value, (tuple, list)) else [_integer(value)] * rank
    numbers = numbers * rank if len(numbers) == 1 else numbers
    least = None if name == "padding" else 1
    if len(numbers) != rank or any(n is None or (least is not None and n < least) for n in numbers):
        allowed = "an int" if least is None else f"an int of at least {least}"
        raise SpecError(name, value, f"{allowed}, or {rank} of them")
    return numbers


def _integer(value: object) -> Any:
    return value if isinstance(value, torch.SymInt) else integer(value)


def _divisor(groups: object, channels: int, outputs: int) -> int:
    number = _integer(groups)
    for name, count in (("in_channels", channels), ("out_channels", outputs)):
        if number is None or number < 1 or count % number:
            raise SpecError("groups", groups, f"a divisor of {name}={count}")
    return number


def _lowered(x: Tensor) -> Tensor:
    """Return what autocast makes of a tensor: it leaves float64, integers and complex numbers."""
    casts = x.is_floating_point() and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(x.device.type)) if casts else x


def _cropped(x: Tensor, padding: list[int]) -> tuple[Tensor, list[int]]:
    """Return the input without what negative padding crops, and the zeros that are left to add."""
    if all(p >= 0 for p in padding):
        return x, padding
    cut = [min(p, 0) for p in reversed(padding) for _ in range(2)]
    if any(n <= 2 * -min(p, 0) for n, p in zip(x.shape[2:], padding, strict=True)):
        raise SpecError("padding", tuple(padding), f"less than crops all of {tuple(x.shape[2:])}")
    return F.pad(x, cut), [max(p, 0) for p in padding]


def _padded(
    x: Tensor, kernel_size: Sequence[int], padding: str, stride: list[int], dilation: list[int]
) -> tuple[Tensor, list[int]]:
    """Return the input, and what padding is left to do, of padding by name."""
    if padding == "valid":
        return x, [0] * len(stride)
    if padding != "same":
        raise SpecError("padding", padding, "a number, 'same' or 'valid'")
    if any(s != 1 for s in stride):
        raise SpecError("stride", stride, "1 where padding is 'same'", "pad by numbers")
    totals = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    odd = [total % 2 for total in reversed(totals)]
    if any(odd):  # PyTorch's zero that is over comes last
        x = F.pad(x, [side for one in odd for side in (0, one)])
    return x, [total // 2 for total in totals]


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> None:
    channels, outputs = x.shape[1], weight.shape[0]
    if weight.shape[1] * groups != channels:
        raise SpecError("weight.shape[1]", weight.shape[1], f"in_channels / groups = {channels // groups}")
    if bias is not None and bias.shape != (outputs,):
        raise SpecError("bias.shape", tuple(bias.shape), f"({outputs},), one for each output channel")
    for n, k, p, d in zip(x.shape[2:], weight.shape[2:], padding, dilation, strict=True):
        if k < 1 or n + 2 * p < d * (k - 1) + 1:
            reach = f"{tuple(weight.shape[2:])} with dilation {tuple(dilation)}"
            allowed = f"at least the kernel's reach, {reach}, with padding {tuple(padding)}"
            raise SpecError("x.shape[2:]", tuple(x.shape[2:]), allowed)
