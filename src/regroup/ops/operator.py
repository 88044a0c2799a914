"""The operator behind `ops/functional.py`: three passes that PyTorch knows, and who computes each.

>>> torch.ops.regroup.convolution.default.name()
'regroup::convolution'

Each pass is linear in both tensors, so the derivatives of the three are the three again: with y = F(x, w),
dx = I(g, w) and dw = W(x, g),

    of F: I(h, w), W(x, h)      of I: F(h, w), W(h, g)      of W: I(g, h), F(x, h)

where h is the gradient of the pass's own result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from regroup.errors import SpecError
from regroup.ops.backends import choose
from regroup.ops.passes import Call, memory_format

_SIZES = "int[] stride, int[] padding, int[] dilation, int groups) -> Tensor"
_NAMES = ("convolution", "convolution_input_gradient", "convolution_weight_gradient")
for _name, _tensors in zip(
    _NAMES,
    (
        "Tensor x, Tensor weight, Tensor? bias",
        "Tensor g, Tensor weight, SymInt[] shape",
        "Tensor x, Tensor g, SymInt[] shape",
    ),
    strict=True,
):
    torch.library.define(f"regroup::{_name}", f"({_tensors}, {_SIZES}", tags=(torch.Tag.pt2_compliant_tag,))


def _call(tensors: Sequence[Tensor | None], x: Sequence[int], weight: Sequence[int], *sizes: Any) -> Call:
    """Return what is asked for; all its tensors are of one type: machine code takes them at their word."""
    like, *others = (tensor for tensor in tensors if tensor is not None)
    for one in others:
        if one.dtype != like.dtype or one.device != like.device:
            kind, wanted = f"{one.dtype} on {one.device}", f"{like.dtype} on {like.device}"
            raise SpecError("a tensor of the convolution", kind, f"{wanted} like the others", "convert it")
    stride, padding, dilation, groups = sizes
    places = tuple(stride), tuple(padding), tuple(dilation)
    last = memory_format(like) is not torch.contiguous_format
    return Call(tuple(x), tuple(weight), *places, groups, like.dtype, like.device.type, last)


@torch.library.impl("regroup::convolution", "default")
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, *sizes: Any) -> Tensor:
    call = _call((x, weight, bias), x.shape, weight.shape, *sizes)
    y = choose("forward", call).forward(x, weight, bias, call)
    return y.contiguous(memory_format=memory_format(x))


@torch.library.impl("regroup::convolution_input_gradient", "default")
def _input_gradient(g: Tensor, weight: Tensor, shape: Sequence[int], *sizes: Any) -> Tensor:
    call = _call((g, weight), shape, weight.shape, *sizes)
    x = choose("input_gradient", call).input_gradient(g, weight, call)
    return x.contiguous(memory_format=memory_format(g))


@torch.library.impl("regroup::convolution_weight_gradient", "default")
def _weight_gradient(x: Tensor, g: Tensor, shape: Sequence[int], *sizes: Any) -> Tensor:
    call = _call((x, g), x.shape, shape, *sizes)
    return choose("weight_gradient", call).weight_gradient(x, g, call).contiguous()


@torch.library.register_fake("regroup::convolution")
def _fake_forward(x: Tensor, weight: Tensor, bias: Tensor | None, *sizes: Any) -> Tensor:
    y = x.new_empty(_call((x, weight, bias), x.shape, weight.shape, *sizes).y)
    return y.contiguous(memory_format=memory_format(x))


@torch.library.register_fake("regroup::convolution_input_gradient")
def _fake_input_gradient(g: Tensor, weight: Tensor, shape: Sequence[int], *sizes: Any) -> Tensor:
    return g.new_empty(shape).contiguous(memory_format=memory_format(g))


@torch.library.register_fake("regroup::convolution_weight_gradient")
def _fake_weight_gradient(x: Tensor, g: Tensor, shape: Sequence[int], *sizes: Any) -> Tensor:
    return x.new_empty(shape)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    """Keep the two tensors and the sizes for the derivative."""
    ctx.save_for_backward(*inputs[:2])
    ctx.sizes, ctx.bias = inputs[3:], isinstance(inputs[2], Tensor)


def _derive_forward(ctx: Any, h: Tensor) -> tuple:
    (x, weight), wanted = ctx.saved_tensors, ctx.needs_input_grad
    dx = input_gradient(h, weight, x.shape, *ctx.sizes) if wanted[0] else None
    dw = weight_gradient(x, h, weight.shape, *ctx.sizes) if wanted[1] else None
    db = h.sum((0, *range(2, h.dim()))) if ctx.bias and wanted[2] else None
    return dx, dw, db, None, None, None, None


def _derive_input_gradient(ctx: Any, h: Tensor) -> tuple:
    (g, weight), wanted = ctx.saved_tensors, ctx.needs_input_grad
    dg = convolution(h, weight, None, *ctx.sizes) if wanted[0] else None
    dw = weight_gradient(h, g, weight.shape, *ctx.sizes) if wanted[1] else None
    return dg, dw, None, None, None, None, None


def _derive_weight_gradient(ctx: Any, h: Tensor) -> tuple:
    (x, g), wanted = ctx.saved_tensors, ctx.needs_input_grad
    dx = input_gradient(g, h, x.shape, *ctx.sizes) if wanted[0] else None
    dg = convolution(x, h, None, *ctx.sizes) if wanted[1] else None
    return dx, dg, None, None, None, None, None


def _map_forward(
    info: Any, dims: tuple, x: Tensor, weight: Tensor, bias: Tensor | None, *sizes: Any
) -> tuple:
    count, places, groups = info.batch_size, sizes[:3], sizes[3]
    if dims[1] is None and dims[2] is None:
        x = x.movedim(dims[0], 0)
        return convolution(x.flatten(0, 1), weight, bias, *sizes).unflatten(0, x.shape[:2]), 0
    x, weight = _as_groups(x, dims[0], 1, count), _as_groups(weight, dims[1], 0, count)
    bias = None if bias is None else _as_groups(bias, dims[2], 0, count)
    return convolution(x, weight, bias, *places, groups * count).unflatten(1, (count, -1)), 1


def _map_input_gradient(
    info: Any, dims: tuple, g: Tensor, weight: Tensor, shape: Sequence[int], *sizes: Any
) -> tuple:
    count, places, groups = info.batch_size, sizes[:3], sizes[3]
    g, weight = _as_groups(g, dims[0], 1, count), _as_groups(weight, dims[1], 0, count)
    shape = [shape[0], shape[1] * count, *shape[2:]]
    return input_gradient(g, weight, shape, *places, groups * count).unflatten(1, (count, -1)), 1


def _map_weight_gradient(
    info: Any, dims: tuple, x: Tensor, g: Tensor, shape: Sequence[int], *sizes: Any
) -> tuple:
    count, places, groups = info.batch_size, sizes[:3], sizes[3]
    x, g = _as_groups(x, dims[0], 1, count), _as_groups(g, dims[1], 1, count)
    shape = [shape[0] * count, *shape[1:]]
    return weight_gradient(x, g, shape, *places, groups * count).unflatten(0, (count, -1)), 0


def _as_groups(x: Tensor, dim: int | None, channels: int, count: int) -> Tensor:
    """Return what is mapped over as so many more groups of channels."""
    x = x.unsqueeze(0).expand(count, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.movedim(0, channels).flatten(channels, channels + 1)


_RULES = (
    (_derive_forward, _map_forward),
    (_derive_input_gradient, _map_input_gradient),
    (_derive_weight_gradient, _map_weight_gradient),
)


def _public(
    name: str, derive: Callable[..., tuple], vectorise: Callable[..., tuple]
) -> Callable[..., Tensor]:
    """Tell PyTorch the derivative of an operator, and how it is mapped; return what is to be called."""
    torch.library.register_autograd(f"regroup::{name}", derive, setup_context=_keep)
    torch.library.register_vmap(f"regroup::{name}", vectorise)
    operator = getattr(torch.ops.regroup, name)
    members: dict[str, Any] = {
        "forward": lambda *args: operator(*args),
        "setup_context": _keep,
        "backward": derive,
        "vmap": vectorise,
    }
    members = {key: staticmethod(member) for key, member in members.items()}
    # torch.func's transforms do not see the derivatives of torch.library's operators, but those of Functions
    function: Any = type(name, (torch.autograd.Function,), members)

    def call(*args: Any) -> Tensor:
        return function.apply(*args) if _is_transformed() else operator(*args)

    return call


convolution, input_gradient, weight_gradient = (
    _public(name, *rules) for name, rules in zip(_NAMES, _RULES, strict=True)
)


def complex_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *sizes: Any) -> Tensor:
    """Return what PyTorch makes, with its derivatives, of three real convolutions; no operator does it."""
    choose("forward", _call((x, weight, bias), x.shape, weight.shape, *sizes))
    return (F.conv1d, F.conv2d, F.conv3d)[len(sizes[0]) - 1](x, weight, bias, *sizes)


def _is_transformed() -> bool:
    """Tell whether one of torch.func's transforms but functionalization is at work."""
    top = None if torch.compiler.is_compiling() else torch._C._functorch.peek_interpreter_stack()
    return top is not None and top.key() != torch._C._functorch.TransformType.Functionalize


@register_flop_formula(torch.ops.regroup.convolution)
def _forward_flops(
    x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    """Return two for each product of a weight and an output."""
    return 2 * math.prod(weight) * out_shape[0] * math.prod(out_shape[2:])


@register_flop_formula(torch.ops.regroup.convolution_input_gradient)
def _input_gradient_flops(g: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(weight) * g[0] * math.prod(g[2:])


@register_flop_formula(torch.ops.regroup.convolution_weight_gradient)
def _weight_gradient_flops(
    x: Sequence[int], g: Sequence[int], shape: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * math.prod(shape) * g[0] * math.prod(g[2:])
