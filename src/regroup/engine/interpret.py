"""What each op of the graph means, in PyTorch. The passes and the native code are checked against it.

>>> import torch
>>> evaluate(Select((2, 0)), torch.arange(3.0).view(1, 3, 1, 1)).flatten()
tensor([2., 0.])
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from regroup.engine.graph import (
    Activate,
    AdaptivePool,
    Add,
    Concat,
    Conv,
    DynamicConv,
    Fused,
    Graph,
    Linear,
    Lrn,
    Multiply,
    Op,
    Pad,
    Pool,
    Ref,
    Reshape,
    Resize,
    ScaleShift,
    Select,
    Softmax,
    Torch,
)
from regroup.kernels.problems.fused import parsed
from regroup.ops.dynamic import dynamic_conv, packed


def interpret(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run `graph` on batches; float64 inputs give float64 arithmetic throughout."""
    env = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        result = evaluate(node.op, *(env[value] for value in node.inputs))
        results = result if isinstance(result, (tuple, list)) else (result,)
        env.update(zip(node.outputs, results, strict=False))
    return [env[value] for value in graph.outputs]


@singledispatch
def evaluate(op: Op, *inputs: Tensor) -> Tensor:
    """Apply `op` to batches: (images, channels, height, width) or (images, features)."""
    raise NotImplementedError(type(op).__name__)


@evaluate.register
def _(op: Conv, x: Tensor) -> Tensor:
    top, bottom, left, right = op.padding
    weight, bias = op.weight.to(x.dtype), None if op.bias is None else op.bias.to(x.dtype)
    if (top, left) == (bottom, right):
        return F.conv2d(x, weight, bias, op.stride, (top, left), op.dilation, op.groups)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, op.stride, 0, op.dilation, op.groups)


@evaluate.register
def _(op: DynamicConv, x: Tensor, saliency: Tensor) -> Tensor:
    heads, (top, _, left, _) = saliency.shape[1] // x.shape[1], op.padding
    weight = packed(op.weight.to(x.dtype), heads)
    y = dynamic_conv(x, saliency, weight, op.kept, op.stride, (top, left), op.dilation)
    return y if op.bias is None else y + op.bias.to(x.dtype).view(-1, 1, 1)


@evaluate.register
def _(op: Linear, x: Tensor) -> Tensor:
    y = F.linear(x.flatten(1), op.weight.to(x.dtype), None if op.bias is None else op.bias.to(x.dtype))
    return y.view(*y.shape, *x.shape[2:])


@evaluate.register
def _(op: ScaleShift, x: Tensor) -> Tensor:
    shape = (-1,) + (1,) * (x.dim() - 2)
    return x * op.scale.to(x.dtype).view(shape) + op.shift.to(x.dtype).view(shape)


@evaluate.register
def _(op: Activate, x: Tensor) -> Tensor:
    if op.slope is not None:
        return torch.where(x > 0, x, x * op.slope.to(x.dtype).view(-1, *[1] * (x.dim() - 2)))
    name, numbers = parsed(op.kind)
    module = torch if name in ("sigmoid", "tanh", "clamp") else F
    return getattr(module, name)(x, *numbers)


@evaluate.register
def _(op: Add, x: Tensor, y: Tensor) -> Tensor:
    return x + (y if op.scale == 1 else F.interpolate(y, scale_factor=op.scale, mode="nearest"))


@evaluate.register
def _(op: Multiply, x: Tensor, y: Tensor) -> Tensor:
    return x * y


@evaluate.register
def _(op: Concat, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, 1)


@evaluate.register
def _(op: Select, x: Tensor) -> Tensor:
    return x[:, torch.tensor(op.channels, dtype=torch.int64)]


@evaluate.register
def _(op: Pool, x: Tensor) -> Tensor:
    padding = op.padding[0], op.padding[2]
    if op.kind == "max":
        return F.max_pool2d(x, op.kernel, op.stride, padding, op.dilation, op.ceil)
    return F.avg_pool2d(x, op.kernel, op.stride, padding, op.ceil, op.count_padding, op.divisor)


@evaluate.register
def _(op: AdaptivePool, x: Tensor) -> Tensor:
    return (F.adaptive_avg_pool2d if op.kind == "avg" else F.adaptive_max_pool2d)(x, op.size)


@evaluate.register
def _(op: Resize, x: Tensor) -> Tensor:
    if op.mode == "bilinear":
        return torch.ops.aten.upsample_bilinear2d.default(x, list(op.size), op.align_corners, *op.scale)
    name = "upsample_nearest2d" if op.mode == "nearest" else "_upsample_nearest_exact2d"
    nearest = getattr(torch.ops.aten, name).default
    if x.dtype != torch.float64:
        return nearest(x, list(op.size), *op.scale)
    # PyTorch finds the source of a pixel in the precision of its tensors; the network's is float32
    numbers = torch.arange(float(x.shape[2] * x.shape[3]), dtype=torch.float32).view(1, 1, *x.shape[2:])
    return x.flatten(2)[..., nearest(numbers, list(op.size), *op.scale).flatten().long()].unflatten(
        2, op.size
    )


@evaluate.register
def _(op: Lrn, x: Tensor) -> Tensor:
    return F.local_response_norm(x, op.size, op.alpha, op.beta, op.k)


@evaluate.register
def _(op: Softmax, x: Tensor) -> Tensor:
    return x.flatten(1).softmax(1).view_as(x)


@evaluate.register
def _(op: Reshape, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], *op.shape)


@evaluate.register
def _(op: Pad, x: Tensor) -> Tensor:
    top, bottom, left, right = op.padding
    return F.pad(x, (left, right, top, bottom))


@evaluate.register
def _(op: Torch, *inputs: Tensor) -> Tensor | Sequence[Tensor]:
    dtype = inputs[0].dtype if inputs else torch.float32

    def actual(arg: object) -> object:
        if isinstance(arg, Ref):
            return inputs[arg.index]
        wide = isinstance(arg, Tensor) and arg.is_floating_point() and dtype == torch.float64
        return arg.double() if wide else arg

    args, kwargs = pytree.tree_map(actual, (op.args, op.kwargs), is_leaf=lambda a: isinstance(a, Ref))
    return op.function(*args, **kwargs)


@evaluate.register
def _(op: Fused, *inputs: Tensor) -> Tensor:
    taken = len(inputs) - sum(isinstance(post, (Add, Multiply)) for post in op.after)
    x, extra = inputs[:taken], list(inputs[taken:])
    for pre in op.before:
        x = (evaluate(pre, x[0]), *x[1:])
    y = evaluate(op.op, *x)
    for post in op.after:
        y = evaluate(post, y, extra.pop(0)) if isinstance(post, (Add, Multiply)) else evaluate(post, y)
    return y
