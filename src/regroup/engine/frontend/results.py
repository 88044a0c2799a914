"""What a model returns, taken apart at the recording and put together again after every run.

>>> import torch
>>> x, buffer = torch.ones(2), torch.zeros(1)
>>> parts = take_apart({"y": x, "again": x, "n": 3}, (), lambda value: False)
>>> results = finish(parts, parts.tensors, (), set(), lambda tensor: True)
>>> results.put_together([x + 1], ())
{'y': tensor([2., 2.]), 'again': tensor([2., 2.]), 'n': 3}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from regroup.engine.frontend.equality import ATOMS
from regroup.errors import EngineError

_Span = tuple[int, tuple[int, ...], tuple[int, ...], int]
"""Where a tensor's numbers lie: storage, sizes, strides, offset."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """Where a leaf of the result comes from.

    Attributes:
        kind: "output" (of the graph, by position), "input" (of the model, by position), "own" (an object of
            the model's, given out itself), "view" (of memory of the model's), "copy" (a constant tensor),
            "value" (anything else).
        what: the position, tensor or value.
    """

    kind: str
    what: Any


@dataclass(frozen=True, eq=False)
class Results:
    """How a model's result is made of a graph's outputs, its inputs and constants."""

    structure: pytree.TreeSpec
    leaves: tuple[Leaf, ...]

    def put_together(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
        """Return what the model returns: outputs share memory with nothing, for in eager they do not."""
        taken = {one for x in inputs for one in (id(x), x.untyped_storage().data_ptr())}
        apart = []
        for y in outputs:
            address = y.untyped_storage().data_ptr()
            if id(y) in taken or (address in taken and y.numel()):
                y = y.clone()
            taken |= {id(y), address}
            apart.append(y)
        made: dict[Any, Any] = {}  # one constant in two places is one object
        leaves = [self._leaf(leaf, apart, inputs, made) for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.structure)

    def _leaf(self, leaf: Leaf, outputs: Sequence[Tensor], inputs: Sequence[Tensor], made: dict) -> Any:
        if leaf.kind == "output":
            return outputs[leaf.what]
        if leaf.kind == "input":
            return inputs[leaf.what]
        if leaf.kind in ("copy", "view"):
            if id(leaf.what) not in made:
                made[id(leaf.what)] = leaf.what.clone() if leaf.kind == "copy" else leaf.what.detach()
            return made[id(leaf.what)]
        return leaf.what


@dataclass(frozen=True, eq=False)
class Parts:
    """A result, while its tensors are still those of the recording.

    Attributes:
        structure: of the result.
        leaves: for each leaf, "output" and a position in `tensors`, "input" and a position, or a value.
        tensors: the tensors that are no inputs, each once.
        spans: where these lie, as far as they are views of one another.
        inputs: where the inputs lie.
    """

    structure: pytree.TreeSpec
    leaves: list[Leaf]
    tensors: list[Tensor]
    spans: list[_Span]
    inputs: list[_Span]


def take_apart(result: Any, inputs: Sequence[Tensor], is_held: Callable[[object], bool]) -> Parts:
    """Take a result apart.

    Args:
        result: of the model.
        inputs: that it was given.
        is_held: tells whether the model holds an object, so that every call returns that one.

    Raises:
        EngineError: there is something in it that could not be made anew at every call.
    """
    seen: list[Any] = []

    def look(node: Any) -> bool:
        if not isinstance(node, (Tensor, tuple)) and type(node) not in ATOMS:
            if any(node is other for other in seen) or is_held(node):
                raise EngineError(f"its result is, or holds, a {type(node).__name__} that is kept elsewhere")
            seen.append(node)
        return type(node) is torch.Size  # put together again, PyTorch makes tuples of these

    found, structure = pytree.tree_flatten(result, is_leaf=look)
    leaves: list[Leaf] = []
    tensors: dict[int, tuple[int, Tensor]] = {}
    known = {id(x): i for i, x in enumerate(inputs)}
    for leaf in found:
        if not isinstance(leaf, Tensor):
            leaves.append(Leaf("value", _checked(leaf)))
        elif id(leaf) in known:
            leaves.append(Leaf("input", known[id(leaf)]))
        else:
            if type(leaf) not in (Tensor, nn.Parameter, nn.Buffer) or leaf.layout != torch.strided:
                raise EngineError(f"its result holds a {type(leaf).__name__} of layout {leaf.layout}")
            position, _ = tensors.setdefault(id(leaf), (len(tensors), leaf))
            leaves.append(Leaf("output", position))
    ours = [tensor for _, tensor in tensors.values()]
    return Parts(structure, leaves, ours, [_span(t) for t in ours], [_span(x) for x in inputs])


def finish(
    parts: Parts,
    tensors: Sequence[Tensor],
    own: Sequence[Tensor],
    storages: set[int],
    is_computed: Callable[[Tensor], bool],
) -> Results:
    """Return how to put the result together.

    Args:
        parts: of the result.
        tensors: for each of `parts.tensors`, the tensor itself.
        own: those among them that are objects of the model's.
        storages: addresses of the memory of the model's tensors.
        is_computed: tells whether the graph computes a tensor; it is a constant otherwise.

    Raises:
        EngineError: two tensors of the result share memory, or one shares it with an input.
    """
    if any(_overlap(a, b) for a in parts.spans for b in parts.inputs):
        raise EngineError("a result shares memory with an input, without being it")
    spans = parts.spans
    if any(_overlap(a, b) for i, a in enumerate(spans) for b in spans[:i]):
        raise EngineError("two tensors of its result share memory")
    made: list[Leaf] = []
    for tensor in tensors:
        if is_computed(tensor):
            made.append(Leaf("output", sum(leaf.kind == "output" for leaf in made)))
        elif any(tensor is one for one in own):
            made.append(Leaf("own", tensor))
        else:
            shared = tensor.untyped_storage().data_ptr() in storages
            made.append(Leaf("view" if shared else "copy", tensor))
    return Results(
        parts.structure,
        tuple(made[leaf.what] if leaf.kind == "output" else leaf for leaf in parts.leaves),
    )


def _checked(leaf: Any) -> Any:
    if type(leaf) not in ATOMS and not isinstance(leaf, (np.generic, Enum, type)):
        raise EngineError(f"its result holds a {type(leaf).__name__}, which may hold tensors")
    return leaf


def _span(tensor: Tensor) -> _Span:
    storage = tensor.untyped_storage()._cdata
    return storage, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


def _overlap(a: _Span, b: _Span) -> bool:
    """Tell whether two tensors have a number in common."""
    if a[0] != b[0] or 0 in a[1] or 0 in b[1]:
        return False
    ends = [offset + sum((n - 1) * s for n, s in zip(*shape, strict=True)) for _, *shape, offset in (a, b)]
    if ends[0] < b[3] or ends[1] < a[3]:
        return False
    memory = np.zeros(max(ends) + 1, bool)
    first, second = (
        np.lib.stride_tricks.as_strided(memory[offset:], sizes, strides)
        for _, sizes, strides, offset in (a, b)
    )
    first[...] = True
    return bool(second.any())
