"""PyTorch's operators -> the graph's ops, one by one. What is not recognised stays with PyTorch.

Each function below takes one operator's arguments by their names in PyTorch's schema (tensors that the
network computes as `Ref`), with the shapes of the node's inputs, and returns the op that does the same to
one image, or None. `channel_orders.py` recognises what takes several operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import Any

import torch
from torch import Tensor

from regroup.engine.graph import (
    Activate,
    AdaptivePool,
    Add,
    Concat,
    Conv,
    DynamicConv,
    Graph,
    Linear,
    Multiply,
    Node,
    Op,
    Pad,
    Pool,
    Ref,
    Reshape,
    Resize,
    ScaleShift,
    Select,
    Shape,
    Softmax,
    Torch,
    Value,
)
from regroup.kernels.problems.fused import clamp, leaky_relu


@dataclass(frozen=True)
class _Arguments:
    """One call: its arguments by name, the inputs' shapes, the output's shape."""

    by_name: dict[str, Any]
    inputs: tuple[Value, ...]
    out: Shape

    def __getattr__(self, name: str) -> Any:
        return self.by_name[name]

    def shape(self, arg: Ref) -> Shape:
        return self.inputs[arg.index].shape


_Recogniser = Callable[[_Arguments], "Op | tuple[Op, Sequence[Ref]] | None"]
OPERATORS: dict[str, _Recogniser] = {}
"""By the names of the operators; the tests sweep whatever is here."""


def recognise(graph: Graph) -> None:
    """Replace every node that is understood; the others say why not."""
    used = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, Torch):
            _recognise_node(node, used)
        nodes.append(node)
        if isinstance(node.op, AdaptivePool) and len(node.output.shape) == 1:  # the mean without its 1x1
            flat = node.output
            image = flat.like((*flat.shape, *node.op.size))
            node.outputs = (image,)
            nodes.append(Node(Reshape(flat.shape), (image,), (flat,)))
    graph.nodes = nodes


def _recognise_node(node: Node, used: set[Value]) -> None:
    op = node.op
    name = op.function.name()
    recogniser = OPERATORS.get(name) if not used.intersection(node.outputs[1:]) else None
    if recogniser is None:
        node.op = replace(op, why=f"no kernel for {name}")
    elif not all(v.native and len(v.shape) in (1, 3) for v in (*node.inputs, node.output)):
        node.op = replace(op, why=f"{name} on something else than float32 images or vectors")
    elif any(v.per != node.output.per for v in node.inputs):
        node.op = replace(op, why=f"{name} on different numbers of images")
    else:
        found = recogniser(_Arguments(_bind(op), node.inputs, node.output.shape))
        if found is None:
            node.op = replace(op, why=f"no kernel for {name} with these arguments")
            return
        node.outputs = node.outputs[:1]
        if isinstance(found, tuple):
            node.op, node.inputs = found[0], tuple(node.inputs[ref.index] for ref in found[1])
        else:
            node.op = found


def _bind(op: Torch) -> dict[str, Any]:
    schema = op.function._schema.arguments
    bound = {a.name: a.default_value for a in schema if a.has_default_value()}
    return bound | dict(zip([a.name for a in schema], op.args, strict=False)) | op.kwargs


def _operator(*names: str) -> Callable[[_Recogniser], _Recogniser]:
    def add(recogniser: _Recogniser) -> _Recogniser:
        OPERATORS.update((name if "::" in name else f"aten::{name}", recogniser) for name in names)
        return recogniser

    return add


@_operator("convolution")
def _convolution(a: _Arguments) -> Op | None:
    image = isinstance(a.input, Ref) and len(a.shape(a.input)) == 3
    if not image or a.transposed or not _constants(a.weight, a.bias):
        return None
    (top, left) = a.padding
    padding = (top, top, left, left)
    return Conv(a.weight, a.bias, tuple(a.stride), padding, tuple(a.dilation), a.groups)


@_operator("regroup::convolution")
def _regroup_convolution(a: _Arguments) -> Op | None:
    if not isinstance(a.x, Ref) or len(a.shape(a.x)) != 3 or not _constants(a.weight, a.bias):
        return None
    top, left = a.padding
    padding = (top, top, left, left)
    return Conv(a.weight, a.bias, tuple(a.stride), padding, tuple(a.dilation), a.groups)


@_operator("regroup::dynamic_conv")
def _dynamic_conv(a: _Arguments) -> Op | None:
    channels, (top, left) = a.shape(a.x)[0], a.padding
    heads = a.shape(a.saliency)[0] // channels
    weight = a.weight.unflatten(0, (heads, channels)).transpose(1, 2).flatten(0, 1)
    return DynamicConv(weight, a.kept, None, tuple(a.stride), (top, top, left, left), tuple(a.dilation))


@_operator("addmm")
def _addmm(a: _Arguments) -> Op | None:
    vector = isinstance(a.mat1, Ref) and len(a.shape(a.mat1)) == 1
    plain = a.beta == 1 and a.alpha == 1 and _constants(a.self, a.mat2)
    return Linear(a.mat2.t(), a.self.expand(a.mat2.shape[1])) if vector and plain else None


@_operator("mm")
def _mm(a: _Arguments) -> Op | None:
    vector = isinstance(a.self, Ref) and len(a.shape(a.self)) == 1
    return Linear(a.mat2.t()) if vector and _constants(a.mat2) else None


@_operator("native_batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(a: _Arguments) -> Op | None:
    if a.by_name.get("training") or not _constants(a.running_mean, a.running_var, a.weight, a.bias):
        return None
    scale = 1 / torch.sqrt(a.running_var.double() + a.eps)
    scale = scale if a.weight is None else scale * a.weight.double()
    shift = -a.running_mean.double() * scale
    return ScaleShift(scale, shift if a.bias is None else shift + a.bias.double())


def _activation(kind: str) -> _Recogniser:
    return lambda a: Activate(kind)


for _kind in ("relu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh"):
    _operator(_kind)(_activation(_kind))


@_operator("hardtanh", "clamp", "clamp_min", "clamp_max")
def _clamp(a: _Arguments) -> Op | None:
    bounds = [a.by_name.get(f"{side}_val", a.by_name.get(side)) for side in ("min", "max")]
    low, high = (end if n is None else float(n) for n, end in zip(bounds, (-inf, inf), strict=True))
    if isnan(low) or isnan(high):
        return None
    usual = {(0.0, inf): "relu", (0.0, 6.0): "relu6"}
    return Activate(usual.get((low, high)) or clamp(low, high))


@_operator("leaky_relu")
def _leaky_relu(a: _Arguments) -> Op | None:
    return Activate(leaky_relu(a.negative_slope))


@_operator("_prelu_kernel")
def _prelu(a: _Arguments) -> Op | None:
    if not isinstance(a.self, Ref) or not _constants(a.weight):
        return None
    slope = _per_channel(a, a.weight)
    return None if slope is None else Activate("prelu", slope)


@_operator("gelu")
def _gelu(a: _Arguments) -> Op | None:
    return Activate("gelu") if a.approximate == "none" else None


@_operator("add.Tensor", "add.Scalar")
def _add(a: _Arguments) -> Op | tuple | None:
    if a.alpha != 1:
        return None
    if isinstance(a.self, Ref) and isinstance(a.other, Ref):
        same = a.shape(a.self) == a.shape(a.other) == a.out and len(a.out) in (1, 3)
        return (Add(), (a.self, a.other)) if same else None
    return _affine(a, scale=1.0, shift=a.other if isinstance(a.self, Ref) else a.self)


@_operator("sub.Tensor", "sub.Scalar")
def _sub(a: _Arguments) -> Op | None:
    if a.alpha != 1 or not isinstance(a.self, Ref) or isinstance(a.other, Ref):
        return None
    return _affine(a, scale=1.0, shift=-a.other)


@_operator("mul.Tensor", "mul.Scalar")
def _mul(a: _Arguments) -> Op | tuple | None:
    if not (isinstance(a.self, Ref) and isinstance(a.other, Ref)):
        return _affine(a, scale=a.other if isinstance(a.self, Ref) else a.self, shift=0.0)
    for x, y in ((a.self, a.other), (a.other, a.self)):
        gate = len(a.out) == 3 and a.shape(y) == (a.out[0], 1, 1)
        if a.shape(x) == a.out and len(a.out) in (1, 3) and (gate or a.shape(y) == a.out):
            return Multiply(), (x, y)
    return None


@_operator("div.Tensor", "div.Scalar")
def _div(a: _Arguments) -> Op | None:
    if not isinstance(a.self, Ref) or isinstance(a.other, Ref):
        return None
    return _affine(a, scale=1 / torch.as_tensor(a.other, dtype=torch.float64), shift=0.0)


def _affine(a: _Arguments, scale: object, shift: object) -> Op | None:
    """Scale and shift by numbers, or by tensors that have one number per channel."""
    if len(a.out) not in (1, 3) or a.inputs[0].shape != a.out:
        return None
    scales, shifts = _per_channel(a, scale), _per_channel(a, shift)
    return None if scales is None or shifts is None else ScaleShift(scales, shifts)


def _per_channel(a: _Arguments, number: object) -> Tensor | None:
    """Return one number per channel of the output, in float64, for what is broadcast to it like that."""
    tensor = torch.as_tensor(number, dtype=torch.float64)
    if tensor.dim() > len(a.out) + 1:
        return None
    tensor = tensor.reshape((1,) * (len(a.out) + 1 - tensor.dim()) + tuple(tensor.shape))
    if tensor.shape[0] != 1 or any(n != 1 for n in tensor.shape[2:]):
        return None
    return tensor.reshape(-1).expand(a.out[0])


@_operator("cat")
def _cat(a: _Arguments) -> Op | tuple | None:
    dim = a.dim if a.dim >= 0 else a.dim + len(a.out) + 1
    parts = a.tensors
    if dim != 1 or not all(isinstance(part, Ref) and len(a.shape(part)) == len(a.out) for part in parts):
        return None
    return (Concat(), parts) if len(a.out) in (1, 3) else None


@_operator("index_select")
def _index_select(a: _Arguments) -> Op | None:
    """Of a vector; `channel_orders.py` has taken what it is on images."""
    vector = len(a.out) == 1 and a.dim in (1, -1) and _constants(a.index)
    return Select(tuple(a.index.tolist())) if vector else None


@_operator("index_add")
def _index_add(a: _Arguments) -> Op | None:
    """Onto zeros: channels that go to places given by constants are a product with a matrix of 0 and 1."""
    if isinstance(a.self, Ref) or not isinstance(a.source, Ref) or not _constants(a.index):
        return None
    if len(a.out) != 3 or a.dim != 1 or a.alpha != 1 or torch.count_nonzero(a.self):
        return None
    matrix = torch.zeros(a.out[0], a.shape(a.source)[0])
    matrix[a.index, torch.arange(len(a.index))] = 1
    return Conv(matrix[:, :, None, None])


@_operator("constant_pad_nd")
def _pad(a: _Arguments) -> Op | None:
    left, right, top, bottom, *rest = (*a.pad, 0, 0, 0, 0)
    zero = a.value == 0 and not any(rest) and min(a.pad) >= 0
    return Pad((top, bottom, left, right)) if zero and len(a.out) == 3 else None


@_operator("max_pool2d_with_indices")
def _max_pool(a: _Arguments) -> Op | None:
    return _pool(a, "max", dilation=_pair(a.dilation))


@_operator("avg_pool2d")
def _avg_pool(a: _Arguments) -> Op | None:
    return _pool(a, "avg", count_padding=a.count_include_pad, divisor=a.divisor_override)


def _pool(a: _Arguments, kind: str, **options: Any) -> Op | None:
    if len(a.out) != 3:
        return None
    kernel, (top, left) = _pair(a.kernel_size), _pair(a.padding)
    stride = _pair(a.stride) if a.stride else kernel
    return Pool(kind, kernel, stride, (top, top, left, left), ceil=a.ceil_mode, **options)


@_operator("mean.dim")
def _mean(a: _Arguments) -> Op | None:
    image = a.inputs[0].shape
    dims = sorted(d % (len(image) + 1) for d in a.dim or ())
    if len(image) != 3 or dims != [2, 3] or a.dtype is not None:
        return None
    return AdaptivePool((1, 1))


@_operator("_adaptive_avg_pool2d")
def _adaptive_avg_pool(a: _Arguments) -> Op | None:
    return AdaptivePool(tuple(a.output_size)) if len(a.out) == 3 else None


@_operator("adaptive_max_pool2d")
def _adaptive_max_pool(a: _Arguments) -> Op | None:
    return AdaptivePool(_pair(a.output_size), "max") if len(a.out) == 3 else None


def _resize(mode: str) -> _Recogniser:
    def recogniser(a: _Arguments) -> Op | None:
        corners = a.by_name.get("align_corners", False)
        return Resize(tuple(a.output_size), mode, corners, (a.scales_h, a.scales_w))

    return recogniser


for _mode, _name in (
    ("nearest", "upsample_nearest2d"),
    ("nearest-exact", "_upsample_nearest_exact2d"),
    ("bilinear", "upsample_bilinear2d"),
):
    _operator(_name)(_resize(_mode))


@_operator("_softmax")
def _softmax(a: _Arguments) -> Op | None:
    return Softmax() if len(a.out) == 1 and a.dim in (1, -1) and not a.half_to_float else None


@_operator(
    "reshape", "squeeze_copy.dim", "squeeze_copy.dims", "clone", "alias_copy", "expand_copy",
)  # fmt: skip
def _reshape(a: _Arguments) -> Op | None:
    shape = a.inputs[0].shape
    vector = len(a.out) == 1 and len(shape) in (1, 3)
    spread = len(a.out) == 3 and len(shape) in (1, 3) and a.out[1:] == (1, 1)
    same = _count(shape) == _count(a.out)
    return Reshape(a.out) if same and (vector or spread or shape == a.out) else None


def _count(shape: Shape) -> int:
    return torch.Size(shape).numel()


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    values = (value, value) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])


def _constants(*args: Tensor | Ref | None) -> bool:
    return not any(isinstance(arg, Ref) for arg in args)
