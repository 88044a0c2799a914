"""Rules of work on images in other shapes: on each number, linear layers, norms, means, concatenations."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from regroup.engine.frontend.arrangements.axes import Arranged, Axes, Axis, matched, size
from regroup.engine.frontend.arrangements.walker import Walker, follows
from regroup.engine.graph import Node, Ref, Torch, Value
from regroup.engine.operators.constant import Constant
from regroup.engine.operators.norms import LayerNorm, affine
from regroup.engine.recognition import known

_aten = torch.ops.aten


def without_layout(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without the layout of memory: it is the engine's own."""
    return {name: value for name, value in kwargs.items() if name != "memory_format"}


@follows(
    "add.Tensor", "mul.Tensor", "sub.Tensor", "div.Tensor", "add.Scalar", "mul.Scalar", "sub.Scalar",
    "div.Scalar",
    "relu", "hardtanh", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "gelu", "leaky_relu", "elu",
    "celu", "mish", "softplus", "clamp", "clamp_min", "clamp_max", "_prelu_kernel", "pow.Tensor_Scalar",
)  # fmt: skip
def _alone(walker: Walker, node: Node) -> bool:
    """Each number alone, with constants and with other tensors that are broadcast to it."""
    if all(map(walker.is_plain, node.inputs)):
        return False
    wanted = walker.whole(node.output)
    first = next((v for v in node.inputs if walker.whole(v) == wanted and walker.arranged(v)), None)
    x = None if first is None else walker.arranged(first)
    if first is None or x is None:
        return False
    before = len(walker.nodes)
    found = _operands(walker, node, first, x)
    if found is None:
        del walker.nodes[before:]
        return False
    args, values, x = found
    function = node.op.function
    if walker.arranged(first) is not None and len(values) > 1 and values[0].shape != x.image.shape:
        return False
    shape = x.image.shape
    output = walker.made(Torch(function, tuple(args), without_layout(node.op.kwargs)), *values, shape=shape)
    walker.put(node.output, x.on(output))
    return True


def _operands(
    walker: Walker, node: Node, first: Value, x: Arranged
) -> tuple[list, list[Value], Arranged] | None:
    """Return the operator's arguments for images, what it reads, and how `first` is arranged now."""
    others: dict[Value, tuple[Arranged, dict[Axis, Axis]]] = {}
    for value in node.inputs:
        if value is not first:
            y = walker.arranged(value)
            found = None if y is None else matched(x, y)
            if found is None:
                return None
            x, others[value] = found[0], found[1:]
    images: dict[Value, Value] = {first: x.image}
    for value, (y, pairs) in others.items():
        image = _like(walker, y, pairs, x)
        if image is None:
            return None
        images[value] = image
    args: list[Any] = []
    values = [images[value] for value in node.inputs]
    read: list[Value] = list(dict.fromkeys(values))
    for arg in node.op.args:
        if isinstance(arg, Ref):
            args.append(Ref(read.index(values[arg.index])))
        elif isinstance(arg, Tensor) and arg.dim():
            number = _constant(arg, x)
            if number is None:
                return None
            if number.shape[1:] != (1, 1):
                made = walker.made(Constant(number), x.image, shape=tuple(number.shape))
                read.append(made)
                number = Ref(len(read) - 1)
            args.append(number)
        else:
            args.append(arg)
    return args, read, x


def _like(walker: Walker, y: Arranged, pairs: dict[Axis, Axis], x: Arranged) -> Value | None:
    """Return the image of `y` with channels and pixels where those of `x` are, or one of them for all."""

    def order(kind: str) -> Axes | None:
        wanted = [a for a in x.kind(kind) if a in pairs.values()]
        if wanted and len(wanted) < len(x.kind(kind)):
            return None  # a part of a dimension is broadcast
        back = {a: b for b, a in pairs.items()}
        return tuple(back[a] for a in wanted)

    channels, rows, columns = order("channels"), order("rows"), order("columns")
    if channels is None or rows is None or columns is None or len(set(pairs.values())) < len(pairs):
        return None
    return walker.laid(y, channels, rows, columns)


def _constant(arg: Tensor, x: Arranged) -> Tensor | None:
    """Return a constant that is broadcast to a tensor for its image, with sizes of 1 where it is for all."""
    if arg.dtype != torch.float32 or arg.dim() > len(x.dims):
        return None
    dims = x.dims[len(x.dims) - arg.dim() :]
    touched = {axis.kind for n, dim in zip(arg.shape, dims, strict=True) if n > 1 for axis in dim}
    if "images" in touched:
        if not _alike_in_batch(arg, dims):
            return None
        arg, dims = arg[:1], dims  # the first image's
        touched = {axis.kind for n, dim in zip(arg.shape, dims, strict=True) if n > 1 for axis in dim}
    axes = [axis for dim in dims for axis in dim if axis.kind in touched]
    full = [size(tuple(a for a in dim if a.kind in touched)) for dim in dims]
    wide = arg.expand([max(n, m) for n, m in zip(arg.shape, full, strict=True)])
    missing = [axis for axis in x.axes if axis.kind in touched and axis not in axes]
    apart = wide.reshape([axis.size for axis in axes])
    apart = apart.reshape([1] * len(missing) + list(apart.shape)).expand(
        [axis.size for axis in missing] + list(apart.shape)
    )
    axes = missing + axes
    wanted = [axis for axis in x.axes if axis.kind in touched]
    apart = apart.permute([axes.index(axis) for axis in wanted])
    shape = [
        n if kind in touched else 1
        for n, kind in zip(x.image.shape, ("channels", "rows", "columns"), strict=True)
    ]
    return apart.reshape(shape)


def _alike_in_batch(arg: Tensor, dims: tuple[Axes, ...]) -> bool:
    """Tell whether a constant is the same for all images: those are a dimension of their own."""
    own = len(dims[0]) == 1 and dims[0][0].kind == "images" and len(arg) > 1
    inside = any(axis.kind == "images" for dim in dims[1:] for axis in dim)
    return own and not inside and torch.equal(arg, arg[:1].expand_as(arg))


@follows("mm", "addmm")
def _linear(walker: Walker, node: Node) -> bool:
    args = node.op.args
    *bias, rows, weight = args[:3] if "addmm" in node.op.function.name() else args[:2]
    if rows != Ref(0) or len(node.inputs) > 1 or node.op.kwargs or len(args) > 3:
        return False
    return is_linear(walker, node, weight, bias[0] if bias else None)


def is_linear(walker: Walker, node: Node, weight: object, bias: object) -> bool:
    """Follow a linear layer on rows of channels: a 1x1 convolution; of a head's channels: in groups."""
    x = walker.known.get(node.inputs[0])
    if x is None or not isinstance(weight, Tensor) or weight.dtype != torch.float32:
        return False
    if bias is not None and not (isinstance(bias, Tensor) and bias.shape == weight.shape[1:]):
        return False
    last = x.dims[-1]
    others = tuple(a for a in x.kind("channels") if a not in last)
    image = walker.laid(x, others + last)
    if image is None:
        return False
    groups, outputs = size(others), weight.shape[1]
    kernel = (weight.t() if groups == 1 else weight.t().repeat(groups, 1))[:, :, None, None]
    bias = bias if bias is None or groups == 1 else bias.repeat(groups)
    args = (Ref(0), kernel, bias, [1, 1], [0, 0], [1, 1], False, [0, 0], groups)
    shape = (groups * outputs, *image.shape[1:])
    product = walker.made(Torch(_aten.convolution.default, args, {}), image, shape=shape, of=node)
    made = (Axis(outputs, "channels"),) if outputs > 1 else ()
    walker.put(node.output, Arranged(product, x.in_order(others + made), (*x.dims[:-1], made)))
    return True


@follows("native_layer_norm")
def _layer_norm(walker: Walker, node: Node) -> bool:
    _, normalized, weight, bias, eps = node.op.args
    x = walker.known.get(node.inputs[0])
    if x is None or not known(weight, bias) or walker.reads(node.outputs[1:]) or len(normalized) != 1:
        return False
    image = walker.laid(x, x.dims[-1])
    if image is None or image.shape[0] != normalized[0]:
        return False
    norm = walker.made(LayerNorm(eps, *affine(image.shape[0], weight, bias)), image)
    walker.put(node.output, Arranged(norm, x.in_order(x.dims[-1]), x.dims))
    return True


@follows("native_batch_norm", "_native_batch_norm_legit_no_training", "native_group_norm")
def _norm(walker: Walker, node: Node) -> bool:
    """Of channels that are in their place, without the moments, which nobody reads in inference."""
    x, name = walker.known.get(node.inputs[0]), node.op.function.name()
    if x is None or len(x.dims) < 2 or walker.reads(node.outputs[1:]) or not known(*node.op.args[1:]):
        return False
    own = "group" in name or (name == "aten::native_batch_norm" and node.op.args[5])
    if own and x.dims[0] != x.kind("images"):
        return False  # moments of more than an image's numbers
    image = walker.laid(x, x.dims[1])
    if image is None:
        return False
    norm = walker.made(Torch(node.op.function, node.op.args, node.op.kwargs), image)
    walker.put(node.outputs[0], Arranged(norm, x.in_order(x.dims[1]), x.dims))
    return True


@follows("mean.dim", "sum.dim_IntList", "amax")
def _reduced(walker: Walker, node: Node) -> bool:
    """Over all pixels, or over all channels."""
    x, (_, dims, *rest) = (
        walker.known.get(node.inputs[0]),
        (*node.op.args, *((None,) if len(node.op.args) < 2 else ())),
    )
    if x is None or not dims or node.op.kwargs or len(rest) > 1:
        return False
    places = {dim % len(x.dims) for dim in dims}
    over = {axis for place in places for axis in x.dims[place]}
    kinds = {axis.kind for axis in over}
    if over != set(x.kind(*kinds)) or "images" in kinds or not over:
        return False
    if kinds <= {"rows", "columns"}:
        if over != set(x.pixels):
            return False
        where, shape = [2, 3], (x.image.shape[0], 1, 1)
    elif kinds == {"channels"}:
        where, shape = [1], (1, *x.image.shape[1:])
    else:
        return False
    image = walker.made(Torch(node.op.function, (Ref(0), where, True), {}), x.image, shape=shape)
    found = x.on(image, dict.fromkeys(over))
    kept = bool(rest and rest[0])
    left = tuple(dim for place, dim in enumerate(found.dims) if kept or place not in places)
    walker.put(node.output, replace(found, dims=left))
    return True


@follows("cat")
def _cat(walker: Walker, node: Node) -> bool:
    """Of channels that are all of a dimension, or of all pixels, in one row."""
    parts, (dim, *_) = node.op.args[0], (*node.op.args[1:], 0)
    tensors: list[Arranged | Tensor | None] = [
        walker.arranged(node.inputs[p.index]) if isinstance(p, Ref) else p for p in parts
    ]
    first = next((x for x in tensors if isinstance(x, Arranged)), None)
    if all(map(walker.is_plain, node.inputs)) or first is None or any(x is None for x in tensors):
        return False
    place = dim % len(first.dims)
    kinds = {axis.kind for axis in first.dims[place]}
    over = "channels" if kinds == {"channels"} else "pixels" if kinds and kinds <= {"rows", "columns"} else ""
    if not over:
        return False
    before = len(walker.nodes)
    images = [None if x is None else _part(walker, x, place, over, first) for x in tensors]
    if any(image is None for image in images):
        del walker.nodes[before:]
        return False
    read = list(dict.fromkeys(images))
    refs = [Ref(read.index(image)) for image in images]
    channels, height, width = images[0].shape  # type: ignore[missing-attribute]
    total = sum(image.shape[0 if over == "channels" else 2] for image in images)  # type: ignore[missing-attribute]
    shape = (total, height, width) if over == "channels" else (channels, height, total)
    op = Torch(node.op.function, (refs, 1 if over == "channels" else 3), {})
    image = walker.made(op, *read, shape=shape)  # type: ignore[bad-argument-type]
    made = Axis(total, "channels" if over == "channels" else "columns")
    keep = first.pixels if over == "channels" else first.kind("channels")
    axes = (*first.kind("images"), *((made, *keep) if over == "channels" else (*keep, made)))
    dims = (*first.dims[:place], (made,), *first.dims[place + 1 :])
    walker.put(node.output, Arranged(image, axes, dims))
    return True


def _part(walker: Walker, x: Arranged | Tensor, place: int, over: str, first: Arranged) -> Value | None:
    """Return the image of a part: its other dimensions are those of `first`."""
    if isinstance(x, Tensor):
        return _constant_part(walker, x, place, over, first)
    whole = x.kind("channels") if over == "channels" else x.pixels
    if len(x.dims) != len(first.dims) or set(x.dims[place]) != set(whole):
        return None
    ours, theirs = (replace(of, dims=of.dims[:place] + of.dims[place + 1 :]) for of in (first, x))
    alike = matched(ours, theirs)
    if alike is None:
        return None
    ours, theirs, pairs = alike

    def partners(kind: str) -> Axes:
        return tuple(b for a in ours.kind(kind) for b, c in pairs.items() if c is a)

    if over == "channels":
        return walker.laid(theirs, x.dims[place], partners("rows"), partners("columns"))
    return walker.laid(theirs, partners("channels"), (), x.dims[place])


def _constant_part(walker: Walker, part: Tensor, place: int, over: str, first: Arranged) -> Value | None:
    """Return an image of constants, as class tokens are: the same ones for all images."""
    dims = first.dims
    plain = over == "pixels" and len(dims) == 3 and place == 1 and dims[0] == first.kind("images")
    if not plain or part.dtype != torch.float32 or set(dims[2]) != set(first.kind("channels")):
        return None
    if part.dim() != 3 or not len(part) or not torch.equal(part, part[:1].expand_as(part)):
        return None
    numbers = part[0].reshape(-1, *[axis.size for axis in dims[2]])
    order = [1 + dims[2].index(axis) for axis in first.kind("channels")]
    numbers = numbers.permute([*order, 0]).reshape(prod(part.shape[2:]), 1, -1)
    return walker.made(Constant(numbers.contiguous()), first.image, shape=tuple(numbers.shape))
