"""Images whose channels are last, between two permutations (ConvNeXt's blocks): the work of the image itself.

What is done to channels at the end, or to the rows of a matrix with a row for each pixel, is layer norm, a
1x1 convolution, or work on each number alone. So it is written anew for channels that are first; the
permutations, and what nobody reads any more, die.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regroup.engine.graph import Graph, Node, Ref, Torch, Value
from regroup.engine.operators.norms import LayerNorm, affine
from regroup.engine.operators.select import Select
from regroup.engine.recognition import known, name_of, recognises_layouts

_aten = torch.ops.aten

ALONE = (
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
        self._given: dict[Value, Value] = {}

    def follow(self, node: Node) -> None:
        """Append `node`, and what it is on images before it."""
        follow = _FOLLOW.get(name_of(node), _alone if name_of(node) in ALONE else None)
        if follow is None or not node.inputs or not follow(self, node):
            node.inputs = tuple(map(self.given, node.inputs))
        self.nodes.append(node)

    def made(self, op: Any, *inputs: Value, channels: int = 0) -> Value:
        """Append a node and return what it makes: an image of the size of its input."""
        image = inputs[0]
        output = image.like((channels or image.shape[0], *image.shape[1:]))
        self.nodes.append(Node(op, inputs, (output,)))
        return output

    def given(self, value: Value) -> Value:
        """Return what equals `value`, for those who do not follow: made of its image, if it is one."""
        if value not in self.last and value not in self.rows:
            return value
        if value not in self._given:
            image = self.last[value] if value in self.last else self.rows[value]
            whole = image.like((*image.shape[1:], image.shape[0]))
            self._append(_aten.permute_copy.default, (Ref(0), [0, 2, 3, 1]), image, whole)
            self._given[value] = whole
            if value in self.rows:
                self._given[value] = replace(value)
                flat = (Ref(0), [-1, image.shape[0]])
                self._append(_aten.reshape.default, flat, whole, self._given[value])
        return self._given[value]

    def _append(self, function: Any, args: tuple, value: Value, output: Value) -> None:
        self.nodes.append(Node(Torch(function, args, {}), (value,), (output,)))


def _permute(turned: _Turned, node: Node) -> bool:
    (source,), order = node.inputs, [d % len(node.op.args[1]) for d in node.op.args[1]]
    if not source.native or len(source.shape) != 3 or source.per != node.output.per:
        return False
    if order == [0, 2, 3, 1]:
        turned.last[node.output] = source
        return source not in turned.last
    if order != [0, 3, 1, 2] or source not in turned.last:
        return False
    image = turned.last[source]
    node.op, node.inputs = Select(tuple(range(image.shape[0]))), (image,)
    return True


def _layer_norm(turned: _Turned, node: Node) -> bool:
    _, normalized, weight, bias, eps = node.op.args
    image = turned.last.get(node.inputs[0])
    plain = known(weight, bias) and node.outputs[0].native
    if image is None or list(normalized) != [image.shape[0]] or not plain:
        return False
    norm = LayerNorm(eps, *affine(image.shape[0], weight, bias))
    turned.last[node.outputs[0]] = turned.made(norm, image)
    return True


def _reshape(turned: _Turned, node: Node) -> bool:
    (source,), y = node.inputs, node.output
    image = turned.last.get(source)
    if image is not None and not y.batched and len(y.shape) == 2 and y.shape[1] == image.shape[0]:
        turned.rows[y] = image
        return True
    image = turned.rows.get(source)
    if image is None or not y.native or y.per != image.per or y.shape != (*image.shape[1:], image.shape[0]):
        return False
    turned.last[y] = image
    return True


def _product(turned: _Turned, node: Node) -> bool:
    """A linear layer on the rows is a 1x1 convolution of the image."""
    *bias, rows, weight = node.op.args[:3] if name_of(node) == "addmm" else node.op.args[:2]
    image = turned.rows.get(node.inputs[0]) if rows == Ref(0) and len(node.inputs) == 1 else None
    if image is None or node.op.kwargs or len(node.op.args) > 3 or not isinstance(weight, Tensor):
        return False
    vector = bias[0] if bias else None
    if vector is not None and not (isinstance(vector, Tensor) and vector.shape == weight.shape[1:]):
        return False
    args = (Ref(0), weight.t()[:, :, None, None], vector, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    product = Torch(_aten.convolution.default, args, {})
    turned.rows[node.output] = turned.made(product, image, channels=weight.shape[1])
    return True


def _mean(turned: _Turned, node: Node) -> bool:
    """Over all pixels, as the heads of networks do."""
    image, dims = turned.last.get(node.inputs[0]), node.op.args[1]
    plain = len(node.op.args) == 2 and not node.op.kwargs and sorted(d % 4 for d in dims or ()) == [1, 2]
    if image is None or not plain:
        return False
    node.op, node.inputs = Torch(node.op.function, (Ref(0), [2, 3]), {}), (image,)
    return True


def _split(turned: _Turned, node: Node) -> bool:
    image, args = turned.last.get(node.inputs[0]), node.op.args
    if image is None or len(args) < 3 or args[2] % 4 != 3:
        return False
    start = 0
    for value in node.outputs:
        channels = tuple(range(start, start + value.shape[-1]))
        turned.last[value] = turned.made(Select(channels), image, channels=len(channels))
        start += len(channels)
    return True


def _cat(turned: _Turned, node: Node) -> bool:
    images = [turned.last[value] for value in node.inputs if value in turned.last]
    channels = len(node.op.args) == 2 and node.op.args[1] % 4 == 3 and node.output.native
    if not channels or len(images) < len(node.inputs) or not all(isinstance(p, Ref) for p in node.op.args[0]):
        return False  # along pixels, or with a constant
    op = Torch(node.op.function, (node.op.args[0], 1), {})
    turned.last[node.output] = turned.made(op, *images, channels=node.output.shape[-1])
    return True


def _alone(turned: _Turned, node: Node) -> bool:
    images = [turned.last[value] for value in node.inputs if value in turned.last]
    alike = node.output.native and all(value.shape == node.output.shape for value in node.inputs)
    args = tuple(_first(arg, len(node.output.shape) + 1) for arg in node.op.args)
    if len(images) < len(node.inputs) or not alike or any(arg is _UNFIT for arg in args):
        return False
    op = Torch(node.op.function, args, without_layout(node.op.kwargs))
    turned.last[node.output] = turned.made(op, *images)
    return True


_UNFIT = object()


def _first(arg: Any, rank: int) -> Any:
    """Return a constant that was broadcast to channels at the end for channels at the front."""
    if not isinstance(arg, Tensor) or arg.dim() == 0:
        return arg
    if arg.dim() > rank or arg.numel() != arg.shape[-1]:
        return _UNFIT  # another number for each pixel
    return arg.reshape(-1, 1, 1)


def without_layout(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without the layout of memory: it is the engine's own."""
    return {name: value for name, value in kwargs.items() if name != "memory_format"}


_FOLLOW: dict[str, Callable[[_Turned, Node], bool]] = {
    "permute_copy": _permute,
    "native_layer_norm": _layer_norm,
    "reshape": _reshape,
    "mm": _product,
    "addmm": _product,
    "mean.dim": _mean,
    "split_copy.Tensor": _split,
    "split_with_sizes_copy": _split,
    "cat": _cat,
}
"""What each operator is on images, if it is anything: tells whether it was followed."""


@recognises_layouts
def recognise_channels_last(graph: Graph) -> None:
    """Write what is done to images whose channels are last anew, for channels that are first."""
    turned = _Turned()
    for node in graph.nodes:
        turned.follow(node)
    graph.outputs = [turned.given(value) for value in graph.outputs]
    graph.nodes = turned.nodes
    graph.remove_dead()
