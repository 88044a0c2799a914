"""Rules for what is computed element by element, and for concats and choices of channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regroup.parallel.divided import Block, Divided
from regroup.parallel.division import Division
from regroup.parallel.running import Running, divides

_UNARY = [
    "relu",
    "relu6",
    "hardtanh",
    "silu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "gelu",
    "elu",
    "celu",
    "selu",
    "leaky_relu",
    "softplus",
    "mish",
    "softsign",
    "logsigmoid",
    "hardshrink",
    "softshrink",
    "tanhshrink",
    "threshold",
    "exp",
    "log",
    "log1p",
    "expm1",
    "sqrt",
    "rsqrt",
    "abs",
    "neg",
    "negative",
    "pow",
    "square",
    "sign",
    "reciprocal",
    "clamp",
    "clamp_min",
    "clamp_max",
    "clip",
    "erf",
    "sin",
    "cos",
    "round",
    "floor",
    "ceil",
    "nan_to_num",
    "positive",
    "clone",
    "to",
    "float",
    "half",
    "bfloat16",
    "double",
    "type_as",
]
_BINARY = [
    "add",
    "sub",
    "subtract",
    "mul",
    "multiply",
    "div",
    "divide",
    "true_divide",
    "maximum",
    "minimum",
    "lerp",
    "addcmul",
    "addcdiv",
    "where",
    "fmod",
]
_MAGIC = ["add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "neg", "abs"]
_IN_PLACE = {
    *(f"{name}_" for name in (*_UNARY, *_BINARY)),
    *(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "pow")),
}


@divides(*_UNARY, *_BINARY, *(f"__{name}__" for name in _MAGIC), *_IN_PLACE, "rsub")
def _pointwise(run: Running, func: Any, *args: Any, **kwargs: Any) -> Any:
    """What meets is divided alike, then each device does its own."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    divided = [t for t in tensors if isinstance(t, Divided)]
    if not divided or "out" in kwargs or any(isinstance(a, (list, tuple)) for a in args):
        return NotImplemented
    rank, channels = divided[0].dim(), divided[0].shape[1]
    if any(t.dim() != rank or t.shape[1] != channels for t in divided) or any(
        t.dim() > rank for t in tensors
    ):
        return NotImplemented
    division = _common(divided)
    in_place = func.__name__ in _IN_PLACE or kwargs.pop("inplace", False) is True
    changed = next(iter((*args, *kwargs.values())))
    if in_place and not isinstance(changed, Divided):
        return NotImplemented  # a tensor that is whole here would stay as it was

    def local(value: Any) -> Any:
        if isinstance(value, Divided):
            return run.at(value, division)
        if not isinstance(value, Tensor):
            return value
        dim = value.dim() - rank + 1
        if dim >= 0 and run.size(value, dim) == channels:
            return run.part(value, dim, division)
        return run.entered(value)

    plain = _out_of_place(func)
    given = [*map(local, args)]
    result = plain(*given, **{key: local(value) for key, value in kwargs.items()})
    if given and result is given[0] and isinstance(args[0], Divided):
        return args[0]  # `to` a type that it has
    if in_place:
        return run.changed(changed, result, division)
    return run.divided(result, division)


def _out_of_place(func: Any) -> Any:
    """Return the function that gives a new tensor: a block's numbers are replaced, never changed."""
    name = func.__name__
    if name not in _IN_PLACE:
        return func
    plain = f"__{name[3:]}" if name.startswith("__i") else name.removesuffix("_")
    return getattr(torch.nn.functional, plain, None) or getattr(torch, plain, None) or getattr(Tensor, plain)


def _common(divided: list[Divided]) -> Division:
    """Return the division in which these tensors meet: that in which the fewest bytes move."""
    largest = max(divided, key=lambda t: t.numel())
    candidates = {d.key: d for t in divided for d in t.block.divisions()}

    def moved(division: Division) -> tuple[int, bool]:
        total = 0
        for t in divided:
            if division.key not in {d.key for d in t.block.divisions()}:
                changes = int(t.block.division.moved_to(division).sum())
                total += changes * (t.numel() // t.shape[1])
        return total, not division.is_plain

    assert largest is not None
    return min(candidates.values(), key=moved)


@divides("prelu")
def _prelu(run: Running, func: Any, input: Any, weight: Tensor) -> Any:
    """A slope for all channels, or one for each."""
    if not isinstance(input, Divided):
        return NotImplemented
    division = input.block.division
    alike = run.size(weight, 0) == 1
    slopes = run.entered(weight) if alike else run.part(weight, 0, division)
    return run.divided(func(input.block.local, slopes), division)


@divides("cat", "concat", "concatenate")
def _cat(run: Running, func: Any, tensors: Any, dim: int = 0, **kwargs: Any) -> Any:
    """Each device puts its parts after one another."""
    if kwargs or dim % tensors[0].dim() != 1 or any(t.dim() != tensors[0].dim() for t in tensors):
        return NotImplemented
    if any(t.shape[1] < run.wire.devices and not isinstance(t, Divided) for t in tensors):
        return NotImplemented
    parts = [
        t.block
        if isinstance(t, Divided)
        else Block(
            run.part(t, 1, Division.even(t.shape[1], run.wire.devices)),
            Division.even(t.shape[1], run.wire.devices),
        )
        for t in tensors
    ]
    division = parts[0].division.joined(*(p.division for p in parts[1:]))
    return run.divided(torch.cat([p.local for p in parts], 1), division)
