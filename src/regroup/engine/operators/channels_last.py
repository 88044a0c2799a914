"""Images whose channels are last, between two permutations (ConvNeXt's blocks): the work of the image itself.

What is done to channels at the end, or to the rows of a matrix with a row for each pixel, is layer norm, a
1x1 convolution, or work on each number alone. So it is written anew for channels that are first; the
permutations, and what nobody reads any more, die.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regroup.engine.graph import Graph, Node, Ref, Torch, Value
from regroup.engine.operators.norms import LayerNorm, affine
from regroup.engine.operators.select import Select
from regroup.engine.recognition import known, name_of, recognises_several

_aten = torch.ops.aten

_ALONE = (
    "add.Tensor", "mul.Tensor", "sub.Tensor", "div.Tensor", "relu", "hardtanh", "silu", "hardswish",
    "hardsigmoid", "sigmoid", "tanh", "gelu", "leaky_relu", "elu", "mish", "softplus", "clamp", "clone",
)  # fmt: skip
"""Operators of PyTorch's that treat each number alone, or with a constant that is broadcast to it."""


class _Turned:
    """Follows a graph, and makes its nodes anew.

    Attributes:
        nodes: those of the graph, with what is made beside them.
        last: for a tensor whose channels are last the image that it is.
        rows: for a matrix with a row for each pixel of a batch the image that it is.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.last: dict[Value, Value] = {}
        self.rows: dict[Value, Value] = {}

    def follow(self, node: Node) -> None:
        """Append `node`, and what it is on images before it."""
        follow = _FOLLOW.get(name_of(node), _alone if name_of(node) in _ALONE else None)
        if follow is not None and node.inputs:
            follow(self, node)
        self.nodes.append(node)

    def made(self, op: Any, *inputs: Value, channels: int = 0) -> Value:
        """Append a node and return what it makes: an image of the size of its input."""
        image = inputs[0]
        output = image.like((channels or image.shape[0], *image.shape[1:]))
        self.nodes.append(Node(op, inputs, (output,)))
        return output


def _permute(turned: _Turned, node: Node) -> None:
    (source,), order = node.inputs, [d % len(node.op.args[1]) for d in node.op.args[1]]
    if not source.native or len(source.shape) != 3 or source.per != node.output.per:
        return
    if order == [0, 2, 3, 1]:
        turned.last[node.output] = source
    elif order == [0, 3, 1, 2] and source in turned.last:
        image = turned.last[source]
        node.op, node.inputs = Select(tuple(range(image.shape[0]))), (image,)


def _layer_norm(turned: _Turned, node: Node) -> None:
    _, normalized, weight, bias, eps = node.op.args
    image = turned.last.get(node.inputs[0])
    if image is not None and list(normalized) == [image.shape[0]] and known(weight, bias):
        turned.last[node.outputs[0]] = turned.made(
            LayerNorm(eps, *affine(image.shape[0], weight, bias)), image
        )


def _reshape(turned: _Turned, node: Node) -> None:
    (source,), y = node.inputs, node.output
    image = turned.last.get(source)
    if image is not None and not y.batched and len(y.shape) == 2 and y.shape[1] == image.shape[0]:
        turned.rows[y] = image
    image = turned.rows.get(source)
    if (
        image is not None
        and y.native
        and y.per == image.per
        and y.shape == (*image.shape[1:], image.shape[0])
    ):
        turned.last[y] = image


def _product(turned: _Turned, node: Node) -> None:
    """A linear layer on the rows is a 1x1 convolution of the image."""
    *bias, rows, weight = node.op.args[:3] if name_of(node) == "addmm" else node.op.args[:2]
    image = turned.rows.get(node.inputs[0]) if rows == Ref(0) and len(node.inputs) == 1 else None
    if image is None or node.op.kwargs or len(node.op.args) > 3 or not isinstance(weight, Tensor):
        return
    vector = bias[0] if bias else None
    if vector is not None and not (isinstance(vector, Tensor) and vector.shape == weight.shape[1:]):
        return
    args = (Ref(0), weight.t()[:, :, None, None], vector, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    product = Torch(_aten.convolution.default, args, {})
    turned.rows[node.output] = turned.made(product, image, channels=weight.shape[1])


def _mean(turned: _Turned, node: Node) -> None:
    """Over all pixels, as the heads of networks do."""
    image, dims = turned.last.get(node.inputs[0]), node.op.args[1]
    plain = len(node.op.args) == 2 and not node.op.kwargs and sorted(d % 4 for d in dims or ()) == [1, 2]
    if image is not None and plain:
        node.op, node.inputs = Torch(node.op.function, (Ref(0), [2, 3]), {}), (image,)


def _alone(turned: _Turned, node: Node) -> None:
    images = [turned.last[value] for value in node.inputs if value in turned.last]
    alike = all(value.shape == node.output.shape for value in node.inputs)
    if len(images) < len(node.inputs) or not alike:
        return
    args = tuple(_first(arg, len(node.output.shape) + 1) for arg in node.op.args)
    if not any(arg is _UNFIT for arg in args):
        turned.last[node.output] = turned.made(Torch(node.op.function, args, _plain(node.op.kwargs)), *images)


_UNFIT = object()


def _first(arg: Any, rank: int) -> Any:
    """Return a constant that was broadcast to channels at the end for channels at the front."""
    if not isinstance(arg, Tensor) or arg.dim() == 0:
        return arg
    if arg.dim() > rank or arg.numel() != arg.shape[-1]:
        return _UNFIT  # another number for each pixel
    return arg.reshape(-1, 1, 1)


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without the layout of memory: it is the engine's own."""
    return {name: value for name, value in kwargs.items() if name != "memory_format"}


_FOLLOW: dict[str, Callable[[_Turned, Node], None]] = {
    "permute_copy": _permute,
    "native_layer_norm": _layer_norm,
    "reshape": _reshape,
    "mm": _product,
    "addmm": _product,
    "mean.dim": _mean,
}


@recognises_several
def recognise_channels_last(graph: Graph) -> None:
    """Write what is done to images whose channels are last anew, for channels that are first."""
    turned = _Turned()
    for node in graph.nodes:
        turned.follow(node)
    graph.nodes = turned.nodes
    graph.remove_dead()
