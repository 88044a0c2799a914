"""Rules of sequences, (channels, steps), as images of one row: sound runs on the kernels that images have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regroup.engine.frontend.arrangements.axes import Arranged
from regroup.engine.frontend.arrangements.movements import taken
from regroup.engine.frontend.arrangements.walker import Walker, follows
from regroup.engine.graph import Node, Ref, Torch, Value
from regroup.engine.recognition import known

_aten = torch.ops.aten


@follows("convolution", "regroup::convolution")
def _convolution(walker: Walker, node: Node) -> bool:
    x, weight, bias, stride, padding, dilation, *rest = node.op.args
    if not isinstance(x, Ref) or not isinstance(weight, Tensor) or weight.dim() != 3 or not known(bias):
        return False
    image = _row(walker, node.inputs[0])
    if image is None:
        return False
    if len(rest) == 3:  # PyTorch's: transposed, output padding, groups
        rest[1] = [0, *rest[1]]
    sizes = [1, *stride], [0, *padding], [1, *dilation]
    op = Torch(node.op.function, (Ref(0), weight.unsqueeze(2), bias, *sizes, *rest), {})
    return _put(walker, node, op, image)


def _row(walker: Walker, value: Value) -> Value | None:
    """Return a sequence as an image of one row, made if need be; None if it is none."""
    x = walker.known.get(value)
    if x is not None and len(x.dims) == 3 and x.dims[0] == x.kind("images"):
        return walker.laid(x, x.dims[1], (), x.dims[2])
    if x is not None or not value.native or len(value.shape) != 2:
        return None
    channels, steps = value.shape
    return walker.made(
        Torch(_aten.reshape.default, (Ref(0), [-1, channels, 1, steps]), {}),
        value,
        shape=(channels, 1, steps),
    )


def _put(walker: Walker, node: Node, op: Any, image: Value) -> bool:
    channels, steps = node.output.shape
    made = walker.made(op, image, shape=(channels, 1, steps), of=node)
    x = Arranged.of(made, walker.images)
    walker.put(node.output, Arranged(made, x.axes, (*x.dims[:2], x.dims[3])))
    return True


@follows("constant_pad_nd")
def _pad(walker: Walker, node: Node) -> bool:
    _, sides, *_ = node.op.args
    if (
        node.inputs[0] not in walker.known
        or len(sides) != 2
        or not node.output.native
        or len(node.output.shape) != 2
    ):
        return False
    image = _row(walker, node.inputs[0])
    return image is not None and _put(
        walker, node, Torch(node.op.function, (Ref(0), *node.op.args[1:]), node.op.kwargs), image
    )


@follows("glu")
def _glu(walker: Walker, node: Node) -> bool:
    """Half of the channels, times the sigmoid of the others."""
    x, (dim,) = walker.arranged(node.inputs[0]), node.op.args[1:] or (-1,)
    place = 0 if x is None else dim % len(x.dims)
    if x is None or not x.dims[place] or any(axis.kind != "channels" for axis in x.dims[place]):
        return False
    half = x.sizes[place] // 2
    before = len(walker.nodes)
    a, b = (taken(walker, x, place, torch.arange(start, start + half)) for start in (0, half))
    if a is None or b is None or a.image.shape != b.image.shape:
        del walker.nodes[before:]
        return False
    gate = walker.made(Torch(_aten.sigmoid.default, (Ref(0),), {}), b.image)
    product = walker.made(Torch(_aten.mul.Tensor, (Ref(0), Ref(1)), {}), a.image, gate)
    walker.put(node.output, a.on(product))
    return True
