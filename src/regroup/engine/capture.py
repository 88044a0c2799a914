"""Record a model as a graph of PyTorch operators, in a fraction of a second.

The model runs once on tensors that have shapes but no numbers, below PyTorch's functionalization, so that
in-place operators and views arrive as plain functions. This is what torch.export does, without its guards,
pickling and checks of every step, which take thirty times as long. Whatever depends on a tensor's numbers
(`if x.sum() > 0`) cannot be recorded and is reported.

What depends on weights alone is computed while recording, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from regroup.engine.graph import Graph, Node, Ref, Torch, Value
from regroup.errors import EngineError
from regroup.ops.dynamic import as_one_operator

BATCH = 5
"""Batch size of the recording that serves every batch size; one that no network has as a constant."""

_aten = torch.ops.aten

_ZEROS = (_aten.new_zeros.default, _aten.zeros_like.default)
"""Read a tensor's shape and type only, so the result is a constant."""

_VIEWS = (_aten.view.default, _aten._unsafe_view.default)

_DEPENDENT = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)

_NORMS = (_aten.native_batch_norm.default, _aten._native_batch_norm_legit_no_training.default)

_ACTIVATIONS = tuple(
    getattr(_aten, name).default
    for name in ("relu", "hardtanh", "silu", "hardswish", "hardsigmoid", "sigmoid", "gelu", "leaky_relu")
)


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


def capture(model: Callable, examples: Sequence[Tensor], batch: int) -> Capture:
    """Record `model` on inputs shaped like `examples`, their first dimension replaced by `batch`.

    Raises:
        EngineError: the model's flow depends on the numbers in a tensor, or it does not run.
    """
    recorder = _Recorder(batch)
    inputs = [recorder.input(i, example) for i, example in enumerate(examples)]
    # under inference mode operators would not come decomposed; autocast would leave float32
    plain = (torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False))
    try:
        with plain[0], plain[1], plain[2], as_one_operator(), recorder:
            result = torch.func.functionalize(model, remove="mutations_and_views")(*inputs)
    except EngineError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EngineError(f"cannot record the network: {reason}") from error
    leaves, structure = pytree.tree_flatten(result)
    graph = recorder.graph
    graph.outputs = [leaf.value for leaf in leaves if isinstance(leaf, _Unknown)]
    graph.remove_dead()
    constants = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, _Unknown)}
    return Capture(graph, structure, constants)


class _Unknown(Tensor):
    """A tensor without numbers: on the CPU, as far as the model can tell.

    Attributes:
        meta: its shape and strides, for PyTorch to compute with.
        value: what it is in the graph.
    """

    meta: Tensor
    value: Value
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[bad-override]

    @staticmethod
    def __new__(cls, meta: Tensor, value: Value) -> _Unknown:
        layout = {"strides": meta.stride(), "storage_offset": meta.storage_offset()}
        cpu = torch.device("cpu")
        self = Tensor._make_wrapper_subclass(cls, meta.shape, dtype=meta.dtype, device=cpu, **layout)
        self.meta, self.value = meta, value
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[bad-override]
        raise EngineError(f"cannot record the network: {func} outside of the recording")


class _Recorder(TorchDispatchMode):
    """Makes a node of every operator on unknown numbers; the others are computed."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.graph = Graph()
        self._shapes: dict[int, tuple[Tensor, Tensor]] = {}

    def input(self, position: int, example: Tensor) -> Tensor:
        """Return what stands for an input."""
        meta = torch.empty(self.batch, *example.shape[1:], dtype=example.dtype, device="meta")
        unknown = self._unknown(meta, f"input{position}")
        self.graph.inputs.append(unknown.value)
        return unknown

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = list(_leaves((*args, *kwargs.values())))
        known = not any(isinstance(leaf, _Unknown) for leaf in leaves)
        _refuse(func, leaves, known)
        if known and torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if func in _ZEROS:
            shape = self._shape_of(func, args, kwargs)
            return torch.zeros(shape.shape, dtype=shape.dtype)
        return self._record(func, args, kwargs)

    def _record(self, func: Any, args: tuple, kwargs: dict) -> Any:
        values: list[Value] = []

        def stored(arg: object) -> object:
            if not isinstance(arg, _Unknown):
                return arg
            if arg.value not in values:
                values.append(arg.value)
            return Ref(values.index(arg.value))

        # a view depends on strides, and what runs natively before it need not have those of the recording
        function = _aten.reshape.default if func in _VIEWS else func
        op = Torch(function, _mapped(stored, args), {k: _mapped(stored, v) for k, v in kwargs.items()})
        result = self._shape_of(func, args, kwargs)
        name = function.__name__.split(".")[0].removesuffix("_copy")
        unknowns: list[_Unknown] = []

        def named(leaf: object) -> object:
            if isinstance(leaf, Tensor):
                unknowns.append(leaf := self._unknown(leaf, name))
            return leaf

        result = _mapped(named, result)
        self.graph.nodes.append(Node(op, tuple(values), tuple(u.value for u in unknowns)))
        return result

    def _shape_of(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Return the results of an operator, without numbers."""
        metas = _mapped(self._meta, args)
        if func in _ACTIVATIONS:
            return torch.empty_like(metas[0])
        if func in _NORMS and not (func is _NORMS[0] and args[5]):
            return torch.empty_like(metas[0]), *(metas[0].new_empty(0) for _ in range(2))
        if func is _aten.convolution.default and not args[6]:
            return _convolution(metas, lambda: func(*metas))
        return func(*metas, **{k: _mapped(self._meta, v) for k, v in kwargs.items()})

    def _meta(self, arg: object) -> object:
        """Return an argument without numbers."""
        if isinstance(arg, _Unknown):
            return arg.meta
        if isinstance(arg, Tensor):
            if id(arg) not in self._shapes:  # kept alive, so that no other tensor gets its identity
                meta = torch.empty_strided(arg.shape, arg.stride(), dtype=arg.dtype, device="meta")
                self._shapes[id(arg)] = (arg, meta)
            return self._shapes[id(arg)][1]
        return torch.device("meta") if isinstance(arg, torch.device) else arg

    def _unknown(self, meta: Tensor, name: str) -> _Unknown:
        shape = tuple(meta.shape)
        batched = bool(shape) and shape[0] == self.batch
        native = batched and meta.dtype == torch.float32 and meta.numel() > 0
        return _Unknown(meta, Value(shape[1:] if batched else shape, name, batched, native))


def _refuse(func: Any, args: Sequence[object], known: bool) -> None:
    """Raise an error for what a recording would get wrong."""
    reason = ""
    depends = any(tag in func.tags for tag in _DEPENDENT)
    if func is _aten.index.Tensor:  # a shape depends on its indices at most
        known = not any(isinstance(index, _Unknown) for index in args[1:])
    if depends and not known:
        reason = f"its flow or a shape depends on the numbers in a tensor ({func})"
    elif func._schema.is_mutable:  # what was made while recording changes below functionalization
        reason = f"it changes a tensor of its own ({func})"
    elif any(isinstance(arg, torch.Generator) for arg in args):
        reason = "it draws from a random generator of its own"
    if reason:
        raise EngineError(f"cannot record the network: {reason}")


def _convolution(metas: Sequence[Any], ask_pytorch: Callable[[], Tensor]) -> Tensor:
    """Return a convolution's result, without numbers: PyTorch takes long over that, but knows all errors."""
    x, weight, _, stride, padding, dilation, _, _, groups = metas
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=False)
    ]
    if x.dim() != weight.dim() or x.shape[1] != weight.shape[1] * groups or min(sizes, default=0) < 1:
        return ask_pytorch()
    return x.new_empty(x.shape[0], weight.shape[0], *sizes)


def _leaves(args: Iterable[object]) -> Iterator[object]:
    for arg in args:
        if isinstance(arg, (list, tuple)):
            yield from _leaves(arg)
        else:
            yield arg


def _mapped(function: Callable[[object], object], arg: Any) -> Any:
    """Return `arg` with `function` applied to what is in its lists and tuples."""
    if isinstance(arg, (list, tuple)):
        return type(arg)(_mapped(function, one) for one in arg)
    return function(arg)
