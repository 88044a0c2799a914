"""One walk over what PyTorch recorded, that knows of every tensor which image's numbers it holds, and where.

Sequences, tokens, heads, windows, images whose channels are last are images in other shapes. What is done to
them is done to the image instead; the shapes in between die unread. What stays with PyTorch is given the
tensor that it reads, made of the image.

    permute[8, 8, 32] -> layer norm -> linear -> permute[32, 8, 8]     is     layer norm -> 1x1 convolution
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from regroup.engine.frontend.arrangements.axes import Arranged, Axes, Axis, numbers, size
from regroup.engine.graph import Graph, Node, Ref, Torch, Value
from regroup.engine.operators.regrid import Regrid
from regroup.engine.operators.select import Select
from regroup.engine.recognition import name_of

Rule = Callable[["Walker", Node], bool]
"""Follows a node: appends what it is on images, and says where its outputs are; or changes nothing."""

RULES: dict[str, Rule] = {}
"""By the names of PyTorch's operators."""


SCORES: dict[str, Rule] = {}
"""The same for those that read scores of attention."""


def follows(*names: str, scores: bool = False) -> Callable[[Rule], Rule]:
    """Register the rule of the operators called that, for images or for `scores` of attention."""

    def add(rule: Rule) -> Rule:
        (SCORES if scores else RULES).update(dict.fromkeys(names, rule))
        return rule

    return add


class Walker:
    """Follows a graph, and makes its nodes anew.

    Attributes:
        nodes: those of the graph, or what stands for them.
        images: in the batch.
        known: arrangements of tensors that are no plain images.
        scores: tensors that hold products of queries and keys, which nobody need make (`attention.py`).
        macs: of nodes that multiply; they follow them.
    """

    def __init__(self, graph: Graph, images: int, macs: dict[Node, int] | None = None) -> None:
        self.nodes: list[Node] = []
        self.images, self.macs = images, {} if macs is None else macs
        self.known: dict[Value, Arranged] = {}
        self.scores: dict[Value, Any] = {}
        self._repeated: dict[Value, Arranged] = {}
        self._made: set[Value] = set()
        self._given: dict[Value, Value] = {}
        self._used = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)

    def follow(self, node: Node) -> None:
        """Append what `node` is on images, or `node` itself, which is given the tensors that it reads."""
        of_scores = not self.scores.keys().isdisjoint(node.inputs)
        rule = (SCORES if of_scores else RULES).get(name_of(node))
        if rule is None or not node.inputs or not rule(self, node):
            self.keep(node)

    def keep(self, node: Node) -> None:
        """Append a node as it is."""
        node.inputs = tuple(map(self.given, node.inputs))
        self.nodes.append(node)

    # ---- what tensors are -----------------------------------------------------------------------

    def arranged(self, value: Value, *, repeated: bool = False) -> Arranged | None:
        """Return the arrangement of a tensor; None if it holds no image's numbers, or some `repeated`."""
        if value in self.known:
            return self.known[value]
        if repeated and value in self._repeated:
            return self._repeated[value]
        return Arranged.of(value, self.images) if value.native and len(value.shape) == 3 else None

    def is_plain(self, value: Value) -> bool:
        """Tell whether a tensor is none that is followed: whoever reads it reads it as it is."""
        return value not in self.known

    def whole(self, value: Value) -> list[int]:
        """Return the shape of a tensor, images included."""
        return [self.images * value.per, *value.shape] if value.batched else list(value.shape)

    def reads(self, values: Sequence[Value]) -> bool:
        """Tell whether anything reads one of these."""
        return not self._used.isdisjoint(values)

    def put(self, value: Value, arranged: Arranged) -> None:
        """Say where a tensor is that nobody makes any more."""
        if value in self._used:
            self.known[value] = arranged
            self._made.add(value)

    def moved(self, node: Node, results: Sequence[Arranged | None]) -> bool:
        """Say where the outputs of a node are that only moves numbers; it stays while its input is there."""
        if None in results or [r.sizes for r in results] != [self.whole(v) for v in node.outputs]:  # type: ignore[missing-attribute]
            return False
        if any(result.is_repeated for result in results):  # type: ignore[missing-attribute]
            self.keep(node)
            self._repeated.update(zip(node.outputs, results, strict=True))  # type: ignore[no-matching-overload]
            return True
        if node.inputs[0] in self._made:
            for value, result in zip(node.outputs, results, strict=True):
                self.put(value, result)  # type: ignore[bad-argument-type]
            return True
        self.nodes.append(node)
        for value, result in zip(node.outputs, results, strict=True):
            if not (value.native and len(value.shape) == 3 and result.is_image):  # type: ignore[missing-attribute]
                self.known[value] = result  # type: ignore[unsupported-operation]
        return True

    # ---- what is made ---------------------------------------------------------------------------

    def made(
        self, op: Any, *inputs: Value, shape: tuple[int, ...] | None = None, of: Node | None = None
    ) -> Value:
        """Append a node and return its output: an image like the first input, or of another shape.

        Args:
            op: what it does; where it is one of PyTorch's functions, on the inputs in their order.
            inputs: what it reads.
            shape: of the result.
            of: the node whose multiplications these are.
        """
        output = inputs[0].like(inputs[0].shape if shape is None else shape)
        node = Node(op, inputs, (output,))
        self.nodes.append(node)
        if of is not None and of in self.macs:
            self.macs[node] = self.macs.pop(of)
        return output

    def laid(self, x: Arranged, channels: Axes, rows: Axes | None = None, columns: Axes = ()) -> Value | None:
        """Return the image with its channels in the order of these axes, pixels in such rows and columns.

        None if these are other axes than the image has, or pixels in another order.
        """
        rows, columns = (x.kind("rows"), x.kind("columns")) if rows is None else (rows, columns)
        if set(channels) != set(x.kind("channels")) or rows + columns != x.pixels:
            return None
        image = x.image
        if channels != x.kind("channels"):
            order = numbers(x.kind("channels"), channels)
            image = self.made(Select(tuple(order.tolist())), image)
        return self.regrid(image, size(rows), size(columns))

    def regrid(self, image: Value, height: int, width: int) -> Value:
        """Return an image with its pixels in other rows, one after another as before."""
        channels, *pixels = image.shape
        if pixels == [height, width]:
            return image
        if 1 not in (pixels[0], height):
            image = self.made(Regrid(1, height * width), image, shape=(channels, 1, height * width))
        return self.made(Regrid(height, width), image, shape=(channels, height, width))

    def given(self, value: Value) -> Value:
        """Return what equals `value`, for those who do not follow: made of its image, if nobody makes it."""
        if value not in self._made:
            return value
        if value not in self._given:
            self._given[value] = self._tensor(value, self.known[value])
        return self._given[value]

    def _tensor(self, value: Value, x: Arranged) -> Value:
        if value.native and len(value.shape) == 3 and x.is_image:
            image = self.laid(x, *x.dims[1:])
            assert image is not None and image.shape == value.shape
            return image
        if value.native and len(value.shape) == 1 and not x.pixels and x.dims[0] == x.kind("images"):
            image = self.laid(x, x.dims[1])
            assert image is not None
            return self._reshaped(image, replace(value))
        one = () if x.kind("images") else (Axis(1, "images"),)  # so that recordings of one image are alike
        own, axes = (*one, *x.axes), (*one, *(axis for dim in x.dims for axis in dim))
        image, order = x.image, [own.index(axis) for axis in axes]
        if order != sorted(order):
            sizes = [axis.size for axis in own]
            apart = (
                image if self.whole(image) == sizes else self._reshaped(image, self._of_sizes(sizes, image))
            )
            image = self._of_sizes([axis.size for axis in axes], image)
            self._append(torch.ops.aten.permute_copy.default, (Ref(0), order), apart, image)
        return image if self.whole(image) == self.whole(value) else self._reshaped(image, replace(value))

    def _of_sizes(self, sizes: list[int], image: Value) -> Value:
        """Return a tensor of PyTorch's of this shape, images included."""
        first = bool(sizes) and sizes[0] == self.images * image.per
        return Value(tuple(sizes[first:]), image.name, first, first, image.per if first else 1)

    def _reshaped(self, value: Value, output: Value) -> Value:
        self._append(torch.ops.aten.reshape.default, (Ref(0), [-1, *self.whole(output)[1:]]), value, output)
        return output

    def _append(self, function: Any, args: tuple, value: Value, output: Value) -> None:
        self.nodes.append(Node(Torch(function, args, {}), (value,), (output,)))


def arrange(graph: Graph, images: int, macs: dict[Node, int] | None = None) -> None:
    """Write what is done to images in other shapes anew, for the images.

    Args:
        graph: is changed.
        images: in the batch that it was recorded with.
        macs: of its nodes; follow them.
    """
    if not images:
        return
    walker = Walker(graph, images, macs)
    for node in graph.nodes:
        walker.follow(node)
    graph.outputs = [walker.given(value) for value in graph.outputs]
    graph.nodes = walker.nodes
    graph.remove_dead()
