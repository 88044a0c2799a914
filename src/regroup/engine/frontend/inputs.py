"""What a network is called with, taken apart: tensors in order, and the form they came in.

>>> import torch
>>> x, mask = torch.zeros(2, 3), torch.ones(2, 1)
>>> call = take((x,), {"options": {"mask": mask, "gain": 3.0}})
>>> [tuple(t.shape) for t in call.tensors]
[(2, 3), (2, 1)]
>>> call.put_back([x + 1, mask])[1]["options"]["gain"]
3.0
>>> call.form == take((x,), {"options": {"mask": mask, "gain": 2.0}}).form
False
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from regroup.errors import EngineError

_SLOT = object()
"""Stands for a tensor among the leaves of a call."""

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), range, slice, type(...), Enum)
_CONSTANTS += (torch.dtype, torch.device, torch.layout, torch.memory_format)
"""Types of arguments that are part of a recording: with another value there is another recording."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments of one call.

    Attributes:
        tensors: in order; the first one has a batch dimension, where there is such a tensor.
        form: equal for calls that differ in their tensors only: structure, numbers, strings.
        is_plain: the arguments are tensors one by one, in this order.
    """

    tensors: tuple[Tensor, ...]
    form: Hashable
    is_plain: bool
    _leaves: tuple[Any, ...] = ()
    _places: tuple[int, ...] = ()
    _structure: Any = None

    def put_back(self, tensors: Sequence[Any]) -> tuple[tuple, dict[str, Any]]:
        """Return positional and keyword arguments like those of the call, with others for its tensors."""
        if self.is_plain:
            return tuple(tensors), {}
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        return pytree.tree_unflatten(leaves, self._structure)

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The first size of each tensor; None where it is the batch size, which the first tensor's is."""
        firsts = [x.shape[0] if x.dim() else 0 for x in self.tensors]
        return tuple(None if first == firsts[0] else first for first in firsts)

    @cached_property
    def key(self) -> Hashable:
        """Equal for calls that one recording serves, at some batch sizes."""
        return self.form, self.sizes, self.shapes

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each tensor without its first size."""
        return tuple(tuple(x.shape[1:]) for x in self.tensors)

    def named(self) -> list[tuple[str, Tensor]]:
        """Return what to call each tensor in a message: "input", "input 1", "input x", "input 0.mask"."""
        if self.is_plain:
            one = len(self.tensors) == 1
            return [("input" if one else f"input {i}", x) for i, x in enumerate(self.tensors)]
        paths, _ = pytree.tree_flatten_with_path(self.put_back(self.tensors))
        names = [".".join(map(_word, path[1:])) for path, _ in paths]
        return [(f"input {names[place]}", x) for place, x in zip(self._places, self.tensors, strict=True)]


def take(args: tuple, kwargs: Mapping[str, Any]) -> Inputs:
    """Take a call's arguments apart.

    Raises:
        EngineError: one of them is neither a tensor nor a constant: a number, string, None, type, or lists,
            tuples and dictionaries of such.
    """
    if not kwargs and args and all(isinstance(arg, Tensor) for arg in args) and _lead(args) == 0:
        return Inputs(args, len(args), True)
    leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    first = _lead([leaves[i] for i in places])
    places.insert(0, places.pop(first)) if places else None
    tensors = tuple(leaves[i] for i in places)
    rest = tuple(_SLOT if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    for leaf in rest:
        if leaf is not _SLOT and not isinstance(leaf, _CONSTANTS):
            raise EngineError(
                f"an input is of type {type(leaf).__name__}; it must be a tensor, number, string, None, or a "
                "list, tuple or dictionary of such"
            )
    form = (structure, first, *(None if leaf is _SLOT else _mark(leaf) for leaf in rest))
    return Inputs(tensors, form, False, rest, tuple(places), structure)


def of_example(example: Any) -> Inputs:
    """Take an example apart: a tensor, several in order (a sequence), or keyword inputs (a dictionary)."""
    if isinstance(example, Mapping):
        return take((), example)
    if isinstance(example, Sequence) and not isinstance(example, (str, bytes)):
        return take(tuple(example), {})
    if not isinstance(example, Tensor):
        raise EngineError(
            f"example is {type(example).__name__}; it must be a tensor, or a sequence or dictionary of inputs"
        )
    return take((example,), {})


def shapes(examples: Sequence[Tensor], batch: int) -> list[tuple[int, ...]]:
    """Return the shapes of tensors at another batch size, which is that of those as long as the first."""
    long = len(examples[0])
    return [(batch, *x.shape[1:]) if x.dim() and len(x) == long else tuple(x.shape) for x in examples]


def light(example: Tensor) -> Tensor:
    """Return a tensor of the same shape and type that takes no memory."""
    return torch.zeros((), dtype=example.dtype, device="cpu").expand(example.shape)


def _lead(tensors: Sequence[Tensor]) -> int:
    """Return which tensor tells the batch size: the first of images or vectors, else of what has a size."""
    for fits in (lambda x: x.dim() > 1 and x.is_floating_point(), lambda x: x.dim() > 0):
        for i, x in enumerate(tensors):
            if fits(x):
                return i
    return 0


def _mark(value: Any) -> Hashable:
    """Return what is equal for equal constants only: 1, 1.0 and True are three, 0.0 and -0.0 are two."""
    exact = isinstance(value, (float, complex, slice, range))
    return type(value), repr(value) if exact else value


def _word(key: Any) -> str:
    return str(next((getattr(key, a) for a in ("key", "idx", "name") if hasattr(key, a)), key))


def check_call(inputs: Inputs, example: Inputs, *, dynamic: bool) -> None:
    """Raise an error for tensors that are not like those of the example, but for their batch sizes.

    With `dynamic`, all sizes may differ.
    """
    wanted = example.tensors
    if len(inputs.tensors) != len(wanted):
        raise EngineError(
            f"compiled for {len(wanted)} tensor{'s' if len(wanted) > 1 else ''}, called with "
            f"{len(inputs.tensors) or 'none'}: of shapes {[tuple(x.shape) for x in inputs.tensors]}"
        )
    for i, (x, like) in enumerate(zip(inputs.tensors, wanted, strict=True)):
        if x.dim() != like.dim() or (not dynamic and x.shape[1:] != like.shape[1:]):
            sizes = "sizes" if x.dim() == like.dim() else "dimensions"
            raise EngineError(
                f"{inputs.named()[i][0]} has shape {tuple(x.shape)}; this network was compiled for "
                f"{batched(like)}: compile it again for other {sizes}"
            )
        if x.dtype != like.dtype or x.dtype != torch.float32 or not is_plain(x):
            check_tensors([inputs.named()[i]])
            if x.dtype != like.dtype:
                raise EngineError(f"{inputs.named()[i][0]} is {x.dtype}; it was compiled for {like.dtype}")


def batched(x: Tensor) -> str:
    """Return the shape of a tensor in words, at any batch size: "(any, 3, 224, 224)"."""
    return f"({', '.join(['any', *map(str, x.shape[1:])][: x.dim()])})"


def check_tensors(named: Sequence[tuple[str, Tensor]]) -> None:
    """Raise an error for a tensor that the engine cannot be given."""
    for name, x in named:
        if x.is_complex() or (x.is_floating_point() and x.dtype != torch.float32):
            raise EngineError(f"{name} is {x.dtype}; the engine computes in torch.float32: pass x.float()")
        if x.device.type != "cpu":
            advice = "run the model itself, also on meta" if x.is_meta else "pass x.cpu()"
            raise EngineError(f"{name} is on {x.device}; the engine runs on the CPU: {advice}")
        if x.requires_grad and torch.is_grad_enabled():
            raise EngineError(f"{name} requires a gradient; the engine has none: pass x.detach()")
        if x.layout != torch.strided or x.is_nested or x.is_quantized:
            kind = "nested" if x.is_nested else "quantized" if x.is_quantized else x.layout
            raise EngineError(f"{name} is {kind}; it must be a dense tensor: pass x.to_dense()")


def is_plain(x: Tensor) -> bool:
    """Tell whether a tensor is dense, on the CPU, and wants no gradient."""
    plain = x.device.type == "cpu" and x.layout == torch.strided and not x.is_nested and not x.is_quantized
    return plain and not (x.requires_grad and torch.is_grad_enabled())
