"""A network as data: values, and nodes that compute them. Everything the engine does starts here.

A `Value` is the tensor of *one* image: its shape has no batch. A `Node` applies an `Op` to values. Ops are
few (below), each with its constants (weights too) inside; `interpret.py` says in PyTorch what each means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]
"""Zeros around an image: top, bottom, left, right."""


@dataclass(eq=False)
class Value:
    """A tensor between nodes.

    Attributes:
        shape: of one image, without the batch: (channels, height, width), (features,), or anything
            when only PyTorch handles it.
        name: where it comes from, for people.
        batched: False for the rare tensor whose first dimension is not the batch; `shape` is then whole.
        native: it is float32, batched and not empty, so that native code can hold it.
        per: images of it for each of the batch: frames of videos that were made a batch of images are more.
    """

    shape: Shape
    name: str = ""
    batched: bool = True
    native: bool = True
    per: int = 1

    def like(self, shape: Shape, name: str | None = None) -> Value:
        """Return a new value of as many images, of its name if no other is given."""
        return Value(shape, self.name if name is None else name, per=self.per)

    def __repr__(self) -> str:
        return f"{self.name or 'value'}{list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Op:
    """What a node computes; subclasses hold the constants."""


@dataclass(frozen=True, eq=False)
class Conv(Op):
    """Grouped convolution; weight is (out_channels, in_channels / groups, height, width)."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def kernel_size(self) -> Pair:
        """Height and width."""
        return (self.weight.shape[2], self.weight.shape[3])


@dataclass(frozen=True, eq=False)
class Linear(Op):
    """Fully connected layer on a vector; weight is (out_features, in_features)."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class DynamicConv(Op):
    """Convolution by heads of the `kept` channels whose saliencies, the second input, are the largest.

    `weight` is (out_channels, in_channels, height, width), heads one after another; saliencies are a vector,
    all channels' for one head after another. Each channel is multiplied by its saliency.
    """

    weight: Tensor
    kept: int
    bias: Tensor | None = None
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    @property
    def kernel_size(self) -> Pair:
        """Height and width."""
        return (self.weight.shape[2], self.weight.shape[3])


@dataclass(frozen=True, eq=False)
class ScaleShift(Op):
    """x * scale + shift, a number per channel: batch normalisation at inference."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Activate(Op):
    """An activation function.

    Attributes:
        kind: what kernels call it (`regroup.kernels.problems.fused`), or "prelu".
        slope: of "prelu", a number per channel.
    """

    kind: str
    slope: Tensor | None = None

    def of(self, channels: Sequence[int]) -> Activate:
        """Return what it does to some channels, in another order."""
        return self if self.slope is None else Activate(self.kind, self.slope[list(channels)])


@dataclass(frozen=True, eq=False)
class Add(Op):
    """The sum of two values; with `scale` 2 the second is half as large, and each of its pixels is four."""

    scale: int = 1


@dataclass(frozen=True, eq=False)
class Multiply(Op):
    """The product of two values; the second may be a gate of shape (channels, 1, 1)."""


@dataclass(frozen=True, eq=False)
class Concat(Op):
    """Channels of all inputs, one after another."""


@dataclass(frozen=True, eq=False)
class Select(Op):
    """A channel order: output channel i is input channel `channels[i]` (shuffle, split, index-select)."""

    channels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pool(Op):
    """Maximum or average over windows. What an average divides by follows PyTorch's avg_pool2d."""

    kind: str
    kernel: Pair
    stride: Pair
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False
    count_padding: bool = True
    divisor: int | None = None


@dataclass(frozen=True, eq=False)
class AdaptivePool(Op):
    """Average ("avg") or maximum ("max") over `size` windows that cover the image; (1, 1) is global."""

    size: Pair
    kind: str = "avg"


@dataclass(frozen=True, eq=False)
class Resize(Op):
    """To `size` by "nearest", "nearest-exact" or "bilinear".

    `scale` has the factors that the user gave, None where there was none: PyTorch goes by them then.
    """

    size: Pair
    mode: str
    align_corners: bool = False
    scale: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True, eq=False)
class Lrn(Op):
    """Local response normalisation across channels (torch.nn.LocalResponseNorm)."""

    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True, eq=False)
class Softmax(Op):
    """Over all features of a vector."""


@dataclass(frozen=True, eq=False)
class Reshape(Op):
    """The same numbers in PyTorch's order under another shape."""

    shape: Shape


@dataclass(frozen=True, eq=False)
class Pad(Op):
    """Zeros around the image."""

    padding: Padding


@dataclass(frozen=True)
class Ref:
    """Stands for input number `index` in the arguments of a `Torch` op."""

    index: int


@dataclass(frozen=True, eq=False)
class Torch(Op):
    """Any operator of PyTorch, run by PyTorch; `why` says why the engine does not."""

    function: Any
    args: tuple
    kwargs: dict
    why: str = ""


@dataclass(frozen=True, eq=False)
class Fused(Op):
    """`before` on the only input of `op`, then `op`, then `after`, in one step.

    The node's inputs are those of `op`, followed by one for each `Add` and `Multiply` of `after`.
    """

    op: Op
    before: tuple[Op, ...] = ()
    after: tuple[Op, ...] = ()


@dataclass(eq=False)
class Node:
    """`outputs = op(*inputs)`.

    Attributes:
        op: an `Op`; its class says which.
        inputs: values that it reads.
        outputs: values that it makes; one, but for `Torch`.
    """

    op: Any
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def output(self) -> Value:
        """The only output."""
        return self.outputs[0]

    def __repr__(self) -> str:
        return f"{', '.join(map(repr, self.outputs))} = {type(self.op).__name__}{self.inputs!r}"


@dataclass(eq=False)
class Graph:
    """A network: nodes in an order in which they can run."""

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def producers(self) -> dict[Value, Node]:
        """Return the node that computes each value; inputs have none."""
        return {value: node for node in self.nodes for value in node.outputs}

    def consumers(self) -> dict[Value, list[Node]]:
        """Return the nodes that read each value, in order, a node once however often it reads."""
        found: dict[Value, list[Node]] = {value: [] for value in self.values()}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                found[value].append(node)
        return found

    def values(self) -> Iterable[Value]:
        """Yield every value, in the order in which they come to be."""
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs

    def replace(self, old: Value, new: Value) -> None:
        """Let every reader of `old`, and the graph's outputs, read `new` instead."""
        for node in self.nodes:
            node.inputs = tuple(new if value is old else value for value in node.inputs)
        self.outputs = [new if value is old else value for value in self.outputs]

    def remove_dead(self) -> None:
        """Drop nodes whose outputs nobody reads."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if any(value in needed for value in node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]

    def sort(self) -> None:
        """Put nodes after what they read, keeping the order otherwise (passes append at the end)."""
        producers, done, order = self.producers(), set(self.inputs), []
        for first in self.nodes:
            stack = [first]
            while stack:
                node = stack[-1]
                missing = [v for v in node.inputs if v not in done]
                if missing and node.outputs[0] not in done:
                    stack.extend(producers[v] for v in missing)
                    continue
                stack.pop()
                if node.outputs[0] not in done:
                    done.update(node.outputs)
                    order.append(node)
        self.nodes = order
