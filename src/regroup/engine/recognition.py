"""How operators are recognised in what PyTorch recorded: by functions that files of `operators/` register.

A recogniser takes one `Call` of PyTorch's, with its arguments by their names in the schema (tensors that the
network computes as `Ref`), and returns the op that does the same to one image, or None:

>>> @recognises("made::up")
... def _made_up(call):
...     return None
>>> OPERATORS.pop("made::up") == [_made_up]
True

What takes several operators of PyTorch is recognised on the graph (`recognises_several`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from regroup.engine.graph import Graph, Node, Op, Pair, Ref, Shape, Torch, Value


@dataclass(frozen=True)
class Call:
    """One operator of PyTorch's as it was called; its arguments are attributes, under their names.

    Attributes:
        name: of the operator, with its namespace and overload.
        by_name: the arguments.
        inputs: the values that `Ref`s are.
        out: shape of the result.
    """

    name: str
    by_name: dict[str, Any]
    inputs: tuple[Value, ...]
    out: Shape

    @classmethod
    def of(cls, op: Torch, inputs: tuple[Value, ...], out: Shape) -> Call:
        """Return a call with all its arguments, those left out at their defaults."""
        schema = op.function._schema.arguments
        bound = {a.name: a.default_value for a in schema if a.has_default_value()}
        bound |= dict(zip([a.name for a in schema], op.args, strict=False)) | op.kwargs
        return cls(op.function.name(), bound, inputs, out)

    def __getattr__(self, name: str) -> Any:
        return self.by_name[name]

    def shape(self, arg: Ref) -> Shape:
        """Return the shape of an argument."""
        return self.inputs[arg.index].shape

    def per_channel(self, number: object) -> Tensor | None:
        """Return one number per channel of the output, in float64, for what is broadcast to it like that."""
        tensor = torch.as_tensor(number, dtype=torch.float64)
        if tensor.dim() > len(self.out) + 1:
            return None
        tensor = tensor.reshape((1,) * (len(self.out) + 1 - tensor.dim()) + tuple(tensor.shape))
        if tensor.shape[0] != 1 or any(n != 1 for n in tensor.shape[2:]):
            return None
        return tensor.reshape(-1).expand(self.out[0])


@dataclass(frozen=True)
class Found:
    """What a recogniser found that is more than an op on the inputs as they come.

    Attributes:
        op: what it is.
        inputs: the arguments that it reads, in this order; None is all.
        then: ops that follow.
    """

    op: Op
    inputs: Sequence[Ref] | None = None
    then: Sequence[Op] = ()


Recogniser = Callable[[Call], "Op | Found | None"]

OPERATORS: dict[str, list[Recogniser]] = {}
"""By the names of PyTorch's operators; the first that finds something decides. Tests sweep what is here."""

SEVERAL: list[Callable[[Graph], None]] = []
"""What recognises several operators of PyTorch as one."""


def recognises(*names: str) -> Callable[[Recogniser], Recogniser]:
    """Register a recogniser of the operators called that; "aten::" may be left out."""

    def add(recogniser: Recogniser) -> Recogniser:
        for name in names:
            OPERATORS.setdefault(name if "::" in name else f"aten::{name}", []).append(recogniser)
        return recogniser

    return add


def recognises_several(function: Callable[[Graph], None]) -> Callable[[Graph], None]:
    """Register what replaces nodes of PyTorch's by one op, on the whole graph."""
    SEVERAL.append(function)
    return function


class Moved(Protocol):
    """A tensor that holds the numbers of an image in other places."""

    @property
    def image(self) -> Value:
        """Whose numbers they are."""

    @property
    def op(self) -> Op | None:
        """What makes it of the image, None where only what is moved further is an image again."""


_M = TypeVar("_M", bound=Moved)


def replace_movements(graph: Graph, follow: Callable[[Node, dict[Value, _M]], list[_M] | None]) -> None:
    """Replace movements of numbers by one op on the image where they began; what is between dies unread.

    Args:
        graph: is changed.
        follow: returns what the outputs of a node are, given what its inputs are; None if it moves nothing.
    """
    moved: dict[Value, _M] = {}
    nodes = []
    for node in graph.nodes:
        results = follow(node, moved)
        ops = [result.op for result in results or ()]
        moved.update(zip(node.outputs, results or (), strict=False))
        if not ops or None in ops:
            nodes.append(node)  # whoever reads what is half moved, reads it from PyTorch
        else:
            made = zip(ops, results or (), node.outputs, strict=True)
            nodes.extend(Node(op, (result.image,), (value,)) for op, result, value in made)
    graph.nodes = nodes
    graph.remove_dead()


VIEWS = ("view", "view_copy", "reshape")
SHAPES = (*VIEWS, "unsqueeze_copy", "squeeze_copy.dim", "squeeze_copy.dims", "clone")
"""Operators of PyTorch's that leave all numbers in their order."""


def name_of(node: Node) -> str:
    """Return the name of PyTorch's operator that a node is, "" if it is none of PyTorch's own."""
    return node.op.function.name().removeprefix("aten::") if isinstance(node.op, Torch) else ""


def known(*args: Tensor | Ref | None) -> bool:
    """Tell whether arguments are constants of the network."""
    return not any(isinstance(arg, Ref) for arg in args)


def pair(value: int | Sequence[int]) -> Pair:
    """Return two numbers for what PyTorch takes as one or two."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])
