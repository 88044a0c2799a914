"""Sequences as images of one row: a network of sound runs on the kernels that images have.

Every operator on (channels, steps) that follows a convolution is written anew on (channels, 1, steps), before
operators are recognised: the same sums in the same order. What stays with PyTorch reads the sequence itself.

    convolution[8, 40] -> reshape[8, 1, 40] -> convolution[8, 1, 40] -> reshape[8, 40]

Changes of shape between two such operators meet and go (`tidy.join_views`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from regroup.engine.graph import Graph, Node, Ref, Torch, Value
from regroup.engine.operators.channels_last import ALONE, without_layout
from regroup.engine.operators.norms import LayerNorm, affine
from regroup.engine.recognition import known, name_of

_aten = torch.ops.aten

_CONVOLUTIONS = ("convolution", "regroup::convolution")


def sequences_to_images(graph: Graph, macs: dict[Node, int]) -> None:
    """Write anew what follows convolutions of sequences; `macs` are those of the nodes, and follow them."""
    if any(_is_anchor(node) for node in graph.nodes):
        raised = _Raised(graph, macs)
        for node in graph.nodes:
            raised.follow(node)
        graph.nodes = raised.nodes
        graph.remove_dead()


def _is_anchor(node: Node) -> bool:
    return name_of(node) in _CONVOLUTIONS and _is_sequence(node.inputs[0]) and _is_sequence(node.output)


def _is_sequence(value: Value) -> bool:
    return value.native and len(value.shape) == 2


class _Raised:
    """Follows a graph, and makes its nodes anew.

    Attributes:
        nodes: those of the graph, or what stands for them.
        images: for a tensor (..., steps) the one of shape (..., 1, steps) that has its numbers.
        turned: for a sequence whose channels are last the image that it is.
    """

    def __init__(self, graph: Graph, macs: dict[Node, int]) -> None:
        self.nodes: list[Node] = []
        self.images: dict[Value, Value] = {}
        self.turned: dict[Value, Value] = {}
        self._macs = macs
        self._used = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)

    def follow(self, node: Node) -> None:
        """Append what `node` is on images, and the sequence that others may read; or `node` itself."""
        name = name_of(node)
        if _is_anchor(node) or any(value in self.images or value in self.turned for value in node.inputs):
            rule = _elementwise if name in ALONE else _RULES.get(name)
            if rule is not None and rule(self, node):
                return
        if name in _SQUEEZES and self._is_row(node):
            self.images[node.output] = node.inputs[0]
        self.nodes.append(node)

    def reads(self, values: Sequence[Value]) -> bool:
        """Tell whether anything reads one of these."""
        return not self._used.isdisjoint(values)

    def _is_row(self, node: Node) -> bool:
        """Tell whether a node makes the sequence of an image of one row."""
        shape = node.inputs[0].shape
        return node.inputs[0].native and shape[1:-1] == (1,) and node.output.shape == (shape[0], shape[-1])

    def image(self, value: Value) -> Value | None:
        """Return the image of a sequence, made if need be; None if it is of another kind."""
        if value not in self.images and value.native and len(value.shape) >= 2:
            self.images[value] = image = value.like((*value.shape[:-1], 1, value.shape[-1]))
            self.nodes.append(_reshaped(value, image))
        return self.images.get(value)

    def make(self, node: Node, *args: Any, function: Any = None, **kwargs: Any) -> bool:
        """Append an operator on the images of what `node` reads, in the place of `node`."""
        images = [self.image(value) for value in node.inputs]
        if any(image is None for image in images):
            return False
        outputs = [
            value.like((*value.shape[:-1], 1, value.shape[-1])) if value.native and len(value.shape) >= 2 else
            Value(value.shape, value.name, value.batched, value.native, value.per)
            for value in node.outputs
        ]  # fmt: skip
        made = Node(Torch(function or node.op.function, args, kwargs), tuple(images), tuple(outputs))  # type: ignore[bad-argument-type]
        self.nodes.append(made)
        if node in self._macs:
            self._macs[made] = self._macs.pop(node)
        for value, image in zip(node.outputs, outputs, strict=True):
            if value in self._used:
                self.put(value, image)
        return True

    def put(self, value: Value, image: Value) -> None:
        """Let an image stand for a sequence that others may read."""
        self.images[value] = image
        self.nodes.append(_reshaped(image, value))

    def step(self, function: Any, image: Value, *others: Value, args: Sequence[Any] = ()) -> Value:
        """Append an operator on images whose result is as large as the last of them, and return that."""
        inputs = (image, *others)
        output = inputs[-1].like(inputs[-1].shape)
        refs = tuple(Ref(i) for i in range(len(inputs)))
        self.nodes.append(Node(Torch(function, (*refs, *args), {}), inputs, (output,)))
        return output


def _reshaped(value: Value, like: Value) -> Node:
    return Node(Torch(_aten.reshape.default, (Ref(0), [-1, *like.shape]), {}), (value,), (like,))


def _convolution(raised: _Raised, node: Node) -> bool:
    x, weight, bias, stride, padding, dilation, *rest = node.op.args
    if not isinstance(weight, Tensor) or weight.dim() != 3 or not known(bias):
        return False
    if len(rest) == 3:  # PyTorch's: transposed, output padding, groups
        rest[1] = [0, *rest[1]]
    sizes = [1, *stride], [0, *padding], [1, *dilation]
    return raised.make(node, x, weight.unsqueeze(2), bias, *sizes, *rest)


def _as_it_is(raised: _Raised, node: Node) -> bool:
    return raised.make(node, *node.op.args, **node.op.kwargs)


def _norm(raised: _Raised, node: Node) -> bool:
    """Without the moments, which nobody reads in inference."""
    return not raised.reads(node.outputs[1:]) and _as_it_is(raised, node)


def _elementwise(raised: _Raised, node: Node) -> bool:
    """With constants, and with other sequences, that are broadcast from the last dimension on."""
    if any(value in raised.turned for value in node.inputs):
        return False
    args = tuple(a.unsqueeze(-2) if isinstance(a, Tensor) and a.dim() > 1 else a for a in node.op.args)
    return raised.make(node, *args, **without_layout(node.op.kwargs))


def _along(*places: int) -> Callable[[_Raised, Node], bool]:
    """Return the rule of an operator that names dimensions in these of its arguments."""

    def rule(raised: _Raised, node: Node) -> bool:
        args, rank = list(node.op.args), len(node.inputs[0].shape) + 1
        for place in places:
            if place < len(args):
                args[place] = _dim(args[place], rank)
        return raised.make(node, *args, **node.op.kwargs)

    return rule


def _dim(dim: int, rank: int) -> int:
    """Return the number of a dimension in the image."""
    return dim % rank + (dim % rank == rank - 1)


def _reshape(raised: _Raised, node: Node) -> bool:
    """Of channels alone: groups of them, and back."""
    shape = node.output.shape
    if len(shape) < 2 or shape[-1] != node.inputs[0].shape[-1] or not node.output.native:
        return False
    return raised.make(node, Ref(0), [-1, *shape[:-1], 1, shape[-1]], function=_aten.reshape.default)


def _transpose(raised: _Raised, node: Node) -> bool:
    rank = len(node.inputs[0].shape) + 1
    first, second = (dim % rank for dim in node.op.args[1:3])
    if max(first, second) < rank - 1:
        return raised.make(node, Ref(0), first, second)
    if rank == 3 and {first, second} == {1, 2}:
        image = raised.turned.get(node.inputs[0])
        if image is not None:
            raised.put(node.output, image)
            return True
        raised.turned[node.output] = raised.images[node.inputs[0]]
    return False


def _layer_norm(raised: _Raised, node: Node) -> bool:
    _, normalized, weight, bias, eps = node.op.args
    image = raised.turned.get(node.inputs[0])
    if image is not None and list(normalized) == [image.shape[0]] and known(weight, bias):
        made = image.like(image.shape)
        raised.nodes.append(Node(LayerNorm(eps, *affine(image.shape[0], weight, bias)), (image,), (made,)))
        raised.turned[node.output] = made
    return False  # whoever else reads it, reads it from PyTorch


def _cat(raised: _Raised, node: Node) -> bool:
    return all(isinstance(part, Ref) for part in node.op.args[0]) and _along(1)(raised, node)


def _mean(raised: _Raised, node: Node) -> bool:
    """Over all steps, as the heads of networks do."""
    rank, dims, image = len(node.inputs[0].shape) + 1, node.op.args[1], raised.image(node.inputs[0])
    if image is None or rank != 3 or [dim % rank for dim in dims or ()] != [2] or node.op.kwargs:
        return False
    if node.output.shape[1:] == (1,):
        return raised.make(node, Ref(0), [2, 3], True)
    node.op, node.inputs = Torch(node.op.function, (Ref(0), [2, 3]), {}), (image,)
    raised.nodes.append(node)
    return True


def _pad(raised: _Raised, node: Node) -> bool:
    x, sides, *rest = node.op.args
    return len(sides) == 2 and raised.make(node, x, list(sides), *rest)


def _unsqueeze(raised: _Raised, node: Node) -> bool:
    """PyTorch pools sequences as images of one row, too."""
    image = raised.images.get(node.inputs[0])
    if image is None or node.output.shape != image.shape:
        return False
    node.op, node.inputs = Torch(_aten.alias_copy.default, (Ref(0),), {}), (image,)
    raised.nodes.append(node)
    return True


def _glu(raised: _Raised, node: Node) -> bool:
    """Half of the channels, times the sigmoid of the others."""
    image, dim = raised.images.get(node.inputs[0]), (node.op.args[1:] or (-1,))[0]
    if image is None or len(image.shape) != 3 or dim % 3 != 1:
        return False
    half, nodes = image.shape[0] // 2, []
    for start in (0, half):
        part = image.like((half, *image.shape[1:]))
        nodes.append(
            Node(Torch(_aten.slice_copy.Tensor, (Ref(0), 1, start, start + half), {}), (image,), (part,))
        )
    raised.nodes.extend(nodes)
    gate = raised.step(_aten.sigmoid.default, nodes[1].output)
    raised.put(node.output, raised.step(_aten.mul.Tensor, nodes[0].output, gate))
    return True


_SQUEEZES = ("squeeze_copy.dim", "squeeze_copy.dims")

_RULES: dict[str, Callable[[_Raised, Node], bool]] = {
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    "native_batch_norm": _norm,
    "_native_batch_norm_legit_no_training": _norm,
    "native_group_norm": _norm,
    "_prelu_kernel": _elementwise,
    "alias_copy": _as_it_is,
    "cat": _cat,
    "slice_copy.Tensor": _along(1),
    "index_select": _along(1),
    "split_copy.Tensor": _along(2),
    "split_with_sizes_copy": _along(2),
    "reshape": _reshape,
    "transpose_copy.int": _transpose,
    "native_layer_norm": _layer_norm,
    "mean.dim": _mean,
    "constant_pad_nd": _pad,
    "unsqueeze_copy": _unsqueeze,
    "glu": _glu,
}
"""By the names of PyTorch's operators: makes one anew, or tells that it cannot."""
