"""The dispatch mode under a recording: every operator on tensors without numbers becomes a node."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from regroup.engine.graph import Graph, Node, Ref, Torch, Value
from regroup.errors import EngineError
from regroup.ops.formulas import macs_of
from regroup.ops.shapes import result_of

_aten = torch.ops.aten

_ZEROS = (_aten.new_zeros.default, _aten.zeros_like.default)
"""Read a tensor's shape and type only, so the result is a constant."""

_SIZED = (_aten.reshape.default, _aten.expand_copy.default)
"""Have the sizes of their result as an argument."""

_VIEWS = (_aten.view.default, _aten._unsafe_view.default)

_DEPENDENT = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)

_NORMS = (_aten.native_batch_norm.default, _aten._native_batch_norm_legit_no_training.default)


class StatefulError(EngineError):
    """The model cannot be recorded, for what it does depends on, or changes, what calls leave behind."""


class Phantom(Tensor):
    """A tensor without numbers: on the CPU, as far as the model can tell.

    Attributes:
        meta: its shape and strides, for PyTorch to compute with.
        value: what it is in the graph.
    """

    meta: Tensor
    value: Value
    is_phantom = True
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[bad-override]

    @staticmethod
    def __new__(cls, meta: Tensor, value: Value) -> Phantom:
        layout = {"strides": meta.stride(), "storage_offset": meta.storage_offset()}
        cpu = torch.device("cpu")
        self = Tensor._make_wrapper_subclass(cls, meta.shape, dtype=meta.dtype, device=cpu, **layout)
        self.meta, self.value = meta, value
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[bad-override]
        raise EngineError(f"{func} reads a tensor outside of the recording")


class Recorder(TorchDispatchMode):
    """Makes a node of every operator on unknown numbers; the others are computed."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.graph = Graph()
        self.phantoms: list[weakref.ref[Tensor]] = []
        self.reads: dict[int, tuple[Tensor, int]] = {}
        self.macs: dict[Node, int] = {}
        self._shapes: dict[int, tuple[Tensor, Tensor]] = {}

    def input(self, position: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return what stands for an input."""
        meta = torch.empty(shape, dtype=dtype, device="meta")
        unknown = self._unknown(meta, f"input{position}", ())
        self.graph.inputs.append(unknown.value)
        return unknown

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is _aten.as_strided_.default and _is_where_it_is(*args):
            return next(iter(args))
        leaves = list(leaves_of((*args, *kwargs.values())))
        known = not any(isinstance(leaf, Phantom) for leaf in leaves)
        for leaf in leaves:
            if isinstance(leaf, Tensor) and not isinstance(leaf, Phantom) and not leaf.is_inference():
                self.reads.setdefault(id(leaf), (leaf, leaf._version))
        _refuse(func, leaves, known)
        if _is_random(func, args, kwargs):
            raise StatefulError(f"it draws random numbers ({func})")
        if known:
            return func(*args, **kwargs)
        if func in _ZEROS:
            shape = self._shape_of(func, args, kwargs)
            return torch.zeros(shape.shape, dtype=shape.dtype)
        return self._record(func, args, kwargs)

    def _record(self, func: Any, args: tuple, kwargs: dict) -> Any:
        values: list[Value] = []

        def stored(arg: object) -> object:
            if not isinstance(arg, Phantom):
                return arg
            if arg.value not in values:
                values.append(arg.value)
            return Ref(values.index(arg.value))

        function = _without_strides(func)
        result = self._shape_of(func, args, kwargs)
        if function in _SIZED:
            args = (args[0], self._sizes(function, args[0], result.shape), *args[2:])
        op = Torch(function, _mapped(stored, args), {k: _mapped(stored, v) for k, v in kwargs.items()})
        name = function.__name__.split(".")[0].removesuffix("_copy")
        unknowns: list[Phantom] = []

        def named(leaf: object) -> object:
            if isinstance(leaf, Tensor):
                unknowns.append(leaf := self._unknown(leaf, name, values))
            return leaf

        macs = macs_of(func, _mapped(self._meta, args), kwargs, result) or 0
        result = _mapped(named, result)
        node = Node(op, tuple(values), tuple(u.value for u in unknowns))
        self.graph.nodes.append(node)
        if macs:
            self.macs[node] = macs
        return result

    def _sizes(self, function: Any, x: Tensor, shape: Sequence[int]) -> list[int]:
        """Return the sizes of a result, -1 for the batch: so recordings of two sizes can be the same."""
        batched = bool(shape) and 0 not in shape[1:]
        if function is not _aten.reshape.default:  # -1 is what the dimension is already
            batched = batched and shape[0] == self.batch == x.shape[0] and x.dim() == len(shape)
        return [-1, *shape[1:]] if batched else list(shape)

    def _shape_of(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Return the results of an operator, without numbers."""
        metas = _mapped(self._meta, args)
        if func in (*_NORMS, _aten.convolution.default):  # of types, PyTorch's shapes know nothing
            types = {one.dtype for one in metas[:5] if isinstance(one, Tensor)}
            if len(types) > 1:
                raise EngineError(f"tensors of several types meet in {func}: {', '.join(map(str, types))}")
        if func is _aten.convolution.default and not metas[6]:  # nor of biases
            _, weight, bias, *_ = metas
            if bias is not None and bias.shape != weight.shape[:1]:
                raise EngineError(f"a convolution's bias has shape {tuple(bias.shape)}")
        return result_of(func, metas, {k: _mapped(self._meta, v) for k, v in kwargs.items()})

    def _meta(self, arg: object) -> object:
        """Return an argument without numbers."""
        if isinstance(arg, Phantom):
            return arg.meta
        if isinstance(arg, Tensor):
            if id(arg) not in self._shapes:  # kept alive, so that no other tensor gets its identity
                meta = torch.empty_strided(arg.shape, arg.stride(), dtype=arg.dtype, device="meta")
                self._shapes[id(arg)] = (arg, meta)
            return self._shapes[id(arg)][1]
        return torch.device("meta") if isinstance(arg, torch.device) else arg

    def _unknown(self, meta: Tensor, name: str, sources: Sequence[Value]) -> Phantom:
        shape = tuple(meta.shape)
        per = self._images(shape, sources)
        native = per > 0 and meta.dtype == torch.float32 and 0 not in shape[1:]
        value = Value(shape[1:] if per else shape, name, per > 0, native, max(per, 1))
        unknown = Phantom(meta, value)
        self.phantoms.append(weakref.ref(unknown))
        return unknown

    def _images(self, shape: Sequence[int], sources: Sequence[Value]) -> int:
        """Return how many images a tensor has for each of the batch, 0 if its first dimension is not images.

        It has more than one where frames were made images (`x.flatten(0, 1)`), and in what is made of those.
        """
        if not shape or shape[0] == self.batch:
            return int(bool(shape))
        for source in sources:
            if source.batched and source.per > 1 and shape[0] == self.batch * source.per:
                return source.per
            frames = source.shape[0] if source.batched and len(source.shape) == 4 else 0
            images = frames * source.per
            if frames > 1 and tuple(shape) == (self.batch * images, *source.shape[1:]):
                return images
        return 0


@lru_cache(maxsize=10_000)
def _without_strides(func: Any) -> Any:
    """Return the operator that does the same to a tensor of any strides, into memory of its own."""
    if func in _VIEWS:  # what runs natively before it need not have the strides of the recording
        return _aten.reshape.default
    packet = getattr(_aten, func._schema.name.removeprefix("aten::") + "_copy", None)
    return getattr(packet, func._overloadname, func)


def _refuse(func: Any, args: Sequence[object], known: bool) -> None:
    """Raise an error for what a recording would get wrong."""
    kind, reason = EngineError, ""
    depends = any(tag in func.tags for tag in _DEPENDENT)
    if func is _aten.index.Tensor:  # a shape depends on its indices at most
        known = not any(isinstance(index, Phantom) for index in args[1:])
    if depends and not known:
        reason = f"its flow or a shape depends on the numbers in a tensor ({func})"
    elif func._schema.is_mutable:  # what was made while recording changes below functionalization
        kind, reason = StatefulError, f"it changes a tensor of its own or its input ({func})"
    elif any(isinstance(arg, torch.Generator) for arg in args):
        kind, reason = StatefulError, "it draws from a random generator of its own"
    elif func._schema.name == "aten::as_strided" and not known:
        reason = "it depends on how a tensor lies in memory (as_strided)"
    elif any(isinstance(arg, Tensor) and _is_without_memory(arg) for arg in args):
        reason = "it depends on the numbers in a tensor (by its memory)"
    if reason:
        raise kind(reason)


def _is_where_it_is(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> bool:
    """Tell whether new strides leave a tensor as it is: PyTorch sets them after pooling all of an image."""
    same = isinstance(x, Phantom) and list(size) == list(x.shape) and offset in (None, x.storage_offset())
    return same and all(n == 1 or a == b for n, a, b in zip(size, stride, x.stride(), strict=True))


def _is_random(func: Any, args: Sequence[object], kwargs: dict[str, object]) -> bool:
    """Tell whether an operator draws random numbers: those of attention and dropout may not."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    asked = defaults | given
    return not any(name in asked and not asked[name] for name in ("dropout_p", "train", "training"))


def _is_without_memory(tensor: Tensor) -> bool:
    plain = not isinstance(tensor, Phantom) and tensor.layout == torch.strided and tensor.device.type == "cpu"
    return plain and tensor.numel() > 0 and tensor.data_ptr() == 0


def leaves_of(args: Iterable[object]) -> Iterator[object]:
    """Yield what is in lists and tuples, and in those inside them."""
    for arg in args:
        if isinstance(arg, (list, tuple)):
            yield from leaves_of(arg)
        else:
            yield arg


def _mapped(function: Callable[[object], object], arg: Any) -> Any:
    """Return `arg` with `function` applied to what is in its lists and tuples."""
    if isinstance(arg, (list, tuple)):
        return type(arg)(_mapped(function, one) for one in arg)
    return function(arg)
