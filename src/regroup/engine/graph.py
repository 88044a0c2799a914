"""A network as data: values, and nodes that compute them. Everything the engine does starts here.

A `Value` is the tensor of *one* image: its shape has no batch. A `Node` applies an `Op` to values. An op
holds its constants (weights too) and says in PyTorch what it means (`Op.evaluate`): passes and native code
are checked against that. Ops that native code knows are `operator.Operator`, each in a file of `operators/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

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
        """Return a new value of another shape, of its name if no other is given, and like it in all else."""
        name = self.name if name is None else name
        return Value(shape, name, self.batched, self.native, self.per)

    def __repr__(self) -> str:
        return f"{self.name or 'value'}{list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Op:
    """What a node computes.

    Every op can be looked at as a step: `main` work, what is done to its only input `before`, and what to the
    result `after`. Only a `Fused` op has the latter two.

    Attributes:
        arity: how many values it reads; None is any number.
    """

    arity: ClassVar[int | None] = 1

    @property
    def main(self) -> Any:
        """The work that gives a step its kernel."""
        return self

    @property
    def before(self) -> tuple[Any, ...]:
        """Ops on the input."""
        return ()

    @property
    def after(self) -> tuple[Any, ...]:
        """Ops on the result."""
        return ()

    @property
    def word(self) -> str:
        """What people call it, in `explain()`."""
        return type(self).__name__.lower()

    def evaluate(self, *inputs: Tensor) -> Any:
        """Apply it to batches, (images, channels, height, width) or (images, features), with PyTorch.

        Inputs in float64 give float64 arithmetic throughout.
        """
        raise NotImplementedError(type(self).__name__)

    def shape(self, *inputs: Shape) -> Shape | None:
        """Return the shape of the result for one image, or None where only PyTorch knows.

        Raises:
            ValueError: its constants do not fit the inputs.
        """
        raise NotImplementedError(type(self).__name__)


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

    arity = None

    def evaluate(self, *inputs: Tensor) -> Tensor | Sequence[Tensor]:
        dtype = inputs[0].dtype if inputs else torch.float32

        def actual(arg: object) -> object:
            if isinstance(arg, Ref):
                return inputs[arg.index]
            wide = isinstance(arg, Tensor) and arg.is_floating_point() and dtype == torch.float64
            return arg.double() if wide else arg

        args, kwargs = pytree.tree_map(actual, (self.args, self.kwargs), is_leaf=lambda a: isinstance(a, Ref))
        return self.function(*args, **kwargs)

    def shape(self, *inputs: Shape) -> None:
        return None


@dataclass(frozen=True, eq=False)
class Fused(Op):
    """`before` on the only input of `main`, then `main`, then `after`, in one step.

    The node's inputs are those of `main`, followed by one for each op of `after` that reads a second one.
    """

    main: Any = None  # type: ignore[bad-override]
    before: tuple[Any, ...] = ()  # type: ignore[bad-override]
    after: tuple[Any, ...] = ()  # type: ignore[bad-override]

    @property
    def arity(self) -> int | None:  # type: ignore[bad-override]
        """Those of its work and of what follows."""
        return self.main.arity and self.main.arity + sum(op.arity - 1 for op in self.after)

    @property
    def word(self) -> str:
        """Like 'conv + relu'."""
        return " + ".join(op.word for op in (*self.before, self.main, *self.after))

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return self._through(inputs, lambda op, *xs: op.evaluate(*xs))

    def shape(self, *inputs: Shape) -> Shape:
        return self._through(inputs, lambda op, *xs: op.shape(*xs))

    def _through(self, inputs: Sequence[Any], apply: Callable[..., Any]) -> Any:
        taken = len(inputs) - sum(op.arity - 1 for op in self.after)
        first, *rest = inputs[:taken]
        seconds = iter(inputs[taken:])
        for op in self.before:
            first = apply(op, first)
        y = apply(self.main, first, *rest)
        for op in self.after:
            y = apply(op, y, next(seconds)) if op.arity == 2 else apply(op, y)
        return y


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
        return f"{', '.join(map(repr, self.outputs))} = {self.op.word}{self.inputs!r}"


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

    def evaluate(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run it on batches with PyTorch; float64 inputs give float64 arithmetic throughout."""
        env = dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            result = node.op.evaluate(*(env[value] for value in node.inputs))
            results = result if isinstance(result, (tuple, list)) else (result,)
            env.update(zip(node.outputs, results, strict=False))
        return [env[value] for value in self.outputs]

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

    def verify(self) -> None:
        """Make sure that it is well-formed, by every rule of `RULES`.

        Raises:
            MalformedError: it is not; names the rule and the first node or value that breaks it.
        """
        for rule, breakers in RULES.items():
            for culprit in breakers(self):
                raise MalformedError(f"{rule}; but not {culprit}")


class MalformedError(AssertionError):
    """A graph that is none: a fault of the engine's, never of the user's."""


def _made_twice(graph: Graph) -> Iterator[Value]:
    seen: set[Value] = set()
    for value in graph.values():
        if value in seen:
            yield value
        seen.add(value)


def _reads_too_early(graph: Graph) -> Iterator[str]:
    there = set(graph.inputs)
    for node in graph.nodes:
        yield from (f"{value} in {node}" for value in node.inputs if value not in there)
        there.update(node.outputs)


def _unknown_outputs(graph: Graph) -> Iterator[Value]:
    there = set(graph.values())
    return (value for value in graph.outputs if value not in there)


def _unread(graph: Graph) -> Iterator[Node]:
    read = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)
    return (node for node in graph.nodes if read.isdisjoint(node.outputs))


def _native(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if not isinstance(node.op, Torch)]


def _of_wrong_shape(graph: Graph) -> Iterator[str]:
    for node in _native(graph):
        try:
            shape = node.op.shape(*(value.shape for value in node.inputs))
        except ValueError as error:
            yield f"{node}: {error}"
            continue
        if shape != node.output.shape:
            yield f"{node}, whose shape is {list(shape)}"


RULES: dict[str, Callable[[Graph], Iterable[object]]] = {
    "every value is made once": _made_twice,
    "a node reads what is there before it": _reads_too_early,
    "every output of the graph is a value of it": _unknown_outputs,
    "somebody reads what a node makes": _unread,
    "native code has one result": lambda g: (n for n in _native(g) if len(n.outputs) != 1),
    "an op reads as many values as it takes": lambda g: (
        n for n in _native(g) if n.op.arity not in (None, len(n.inputs))
    ),
    "native code reads and makes what it can hold": lambda g: (
        n for n in _native(g) if not all(v.native for v in (*n.inputs, n.output))
    ),
    "a node's values are of as many images": lambda g: (
        n for n in _native(g) if any(v.per != n.output.per for v in n.inputs)
    ),
    "a result has the shape that its op gives it": _of_wrong_shape,
}
"""What a well-formed graph is: a rule in words, and what finds those that break it."""
