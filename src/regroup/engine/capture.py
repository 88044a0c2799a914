"""Record a model as a graph of PyTorch operators, in a fraction of a second.

The model runs once on fake tensors, which have shapes but no numbers, below PyTorch's functionalization,
so that in-place operators and views arrive as plain functions. This is what torch.export does, without its
guards, pickling and checks of every step, which take ten times as long. Whatever depends on a tensor's
numbers (`if x.sum() > 0`) cannot be recorded and is reported.

What depends on weights alone is computed here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from regroup.engine.graph import Graph, Node, Ref, Torch, Value
from regroup.errors import EngineError

BATCH = 5
"""Batch size of the recording that serves every batch size; one that no network has as a constant."""

_ZEROS = (torch.ops.aten.new_zeros.default, torch.ops.aten.zeros_like.default)
"""Read a tensor's shape and type only, so the result is a constant."""


@dataclass(eq=False)
class Capture:
    """A recorded model.

    Attributes:
        graph: every node a `Torch` op.
        structure: how the model's result is made of the graph's outputs.
        constant_outputs: outputs that do not depend on the input, by position.
    """

    graph: Graph
    structure: pytree.TreeSpec
    constant_outputs: dict[int, object]

    def result(self, outputs: Sequence[Tensor]) -> object:
        """Return what the model returns, made of the graph's outputs."""
        left = iter(outputs)
        count = len(outputs) + len(self.constant_outputs)
        leaves = [
            self.constant_outputs[i] if i in self.constant_outputs else next(left) for i in range(count)
        ]
        return pytree.tree_unflatten(leaves, self.structure)


@dataclass(frozen=True)
class _Call:
    function: Any
    args: tuple
    kwargs: dict
    results: list


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        leaves = pytree.tree_leaves(result)
        if any(isinstance(leaf, Tensor) for leaf in leaves):
            self.calls.append(_Call(func, args, kwargs or {}, leaves))
        return result


def capture(model: Callable, examples: Sequence[Tensor], batch: int) -> Capture:
    """Record `model` on inputs shaped like `examples`, their first dimension replaced by `batch`.

    Raises:
        EngineError: the model's flow depends on the numbers in a tensor, or it does not run.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    inputs = [_dense(fake, e, batch) for e in examples]
    recorder = _Recorder()
    try:
        with torch.no_grad(), fake, recorder:
            result = torch.func.functionalize(model, remove="mutations_and_views")(*inputs)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        reason = f"its flow or a shape depends on the numbers in a tensor ({error.func})"
        raise EngineError(f"cannot record the network: {reason}") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EngineError(f"cannot record the network: {reason}") from error
    leaves, structure = pytree.tree_flatten(result)
    return _Builder(inputs, batch).build(recorder.calls, leaves, structure)


def _dense(fake: FakeTensorMode, example: Tensor, batch: int) -> Tensor:
    with fake:
        return torch.empty(batch, *example.shape[1:], dtype=example.dtype)


class _Builder:
    """Turns recorded calls into a graph: each fake tensor becomes a value or a constant."""

    def __init__(self, inputs: list[Tensor], batch: int) -> None:
        self.batch = batch
        self.known: dict[int, Value | Tensor] = {}
        self.graph = Graph()
        for position, tensor in enumerate(inputs):
            self.graph.inputs.append(self._value(tensor, f"input{position}"))

    def build(self, calls: list[_Call], leaves: list, structure: pytree.TreeSpec) -> Capture:
        with torch.no_grad():
            for call in calls:
                self._call(call)
        constants = {}
        for position, leaf in enumerate(leaves):
            found = self._find(leaf)
            if isinstance(found, Value):
                self.graph.outputs.append(found)
            else:
                constants[position] = found
        self.graph.remove_dead()
        return Capture(self.graph, structure, constants)

    def _call(self, call: _Call) -> None:
        args, structure = pytree.tree_flatten((call.args, call.kwargs))
        values: list[Value] = []
        for i, arg in enumerate(args):
            args[i] = found = self._find(arg)
            if isinstance(found, Value):
                if found not in values:
                    values.append(found)
                args[i] = Ref(values.index(found))
        args, kwargs = pytree.tree_unflatten(args, structure)
        random = torch.Tag.nondeterministic_seeded in call.function.tags
        if random and any(isinstance(arg, torch.Generator) for arg in pytree.tree_leaves((args, kwargs))):
            raise EngineError("cannot record the network: it draws from a random generator of its own")
        if call.function in _ZEROS:
            (zeros,) = call.results
            self.known[id(zeros)] = torch.zeros(tuple(zeros.shape), dtype=zeros.dtype)
            return
        if not values and not random:
            results = pytree.tree_leaves(call.function(*args, **kwargs))
            self.known.update((id(f), r) for f, r in zip(call.results, results, strict=True))
            return
        # a view depends on strides, and what runs natively before it need not have those of the recording
        aten = torch.ops.aten
        is_view = call.function in (aten.view.default, aten._unsafe_view.default)
        function = aten.reshape.default if is_view else call.function
        op = Torch(function, args, kwargs)
        name = function.__name__.split(".")[0].removesuffix("_copy")
        outputs = tuple(self._value(tensor, name) for tensor in call.results)
        self.graph.nodes.append(Node(op, tuple(values), outputs))

    def _find(self, arg: object) -> object:
        return self.known.get(id(arg), arg) if isinstance(arg, Tensor) else arg

    def _value(self, fake: Tensor, name: str) -> Value:
        shape = tuple(fake.shape)
        batched = bool(shape) and shape[0] == self.batch
        native = batched and fake.dtype == torch.float32
        value = Value(shape[1:] if batched else shape, name, batched, native)
        self.known[id(fake)] = value
        return value
