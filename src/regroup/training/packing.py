"""Nested Python values with tensors in them as JSON plus named tensors, and back, without pickle.

>>> structure, tensors = pack({"lr": 0.1, "state": {0: torch.zeros(2)}})
>>> tensors
{'state.0': tensor([0., 0.])}
>>> unpack(structure, tensors)
{'lr': 0.1, 'state': {0: tensor([0., 0.])}}
"""

from __future__ import annotations

import math

import torch

from regroup.errors import TrainingError

Structure = object
"""What `json.dumps` takes."""


def pack(value: object) -> tuple[Structure, dict[str, torch.Tensor]]:
    """Return `value` as a JSON structure and the tensors that it refers to by name.

    Dicts (with any packable keys), lists, tuples, numbers, strings, booleans, None, dtypes and tensors
    (of any order in memory) come back equal from `unpack`; the tensors are copies on the CPU.

    Raises:
        TrainingError: something else is inside; it says what and where.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _pack(value, (), tensors), tensors


def unpack(structure: Structure, tensors: dict[str, torch.Tensor]) -> object:
    """Return the value that `pack` took apart."""
    if isinstance(structure, list):
        return [unpack(item, tensors) for item in structure]
    if not isinstance(structure, dict):
        return structure
    if "$tensor" in structure:
        return _laid_out(tensors[structure["$tensor"]], structure.get("stride"))
    if "$tuple" in structure:
        return tuple(unpack(item, tensors) for item in structure["$tuple"])
    if "$dict" in structure:
        return {unpack(key, tensors): unpack(item, tensors) for key, item in structure["$dict"]}
    if "$float" in structure:
        return float(structure["$float"])
    if "$dtype" in structure:
        return _dtype(structure["$dtype"])
    return {key: unpack(item, tensors) for key, item in structure.items()}


def _pack(value: object, path: tuple[str, ...], tensors: dict[str, torch.Tensor]) -> Structure:
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value, ".".join(path) or "value", tensors)
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    if isinstance(value, torch.dtype):
        return {"$dtype": str(value).removeprefix("torch.")}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        return _pack_dict(value, path, tensors)
    if isinstance(value, (list, tuple)):
        items = [_pack(item, (*path, str(i)), tensors) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    raise TrainingError(f"{'.'.join(path)} is a {type(value).__name__}, which cannot be saved without pickle")


def _pack_dict(value: dict, path: tuple[str, ...], tensors: dict[str, torch.Tensor]) -> Structure:
    items = [(key, _pack(item, (*path, str(key)), tensors)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return dict(items)
    return {"$dict": [[_pack(key, (*path, "key"), tensors), item] for key, item in items]}


def _pack_tensor(value: torch.Tensor, name: str, tensors: dict[str, torch.Tensor]) -> Structure:
    while name in tensors:  # {1: ..., "1": ...} have the same path
        name += "_"
    value = value.detach()
    tensors[name] = value.to("cpu", copy=True).contiguous()
    dense = torch.empty_like(value, device="meta")  # the same order in memory, without gaps and overlaps
    return {"$tensor": name} if dense.is_contiguous() else {"$tensor": name, "stride": list(dense.stride())}


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"torch.{name} is no dtype")
    return found


def _laid_out(value: torch.Tensor, stride: list[int] | None) -> torch.Tensor:
    """Return a tensor in its order in memory, which is without gaps: others could take any space."""
    if stride is None:
        return value
    if len(stride) != value.dim():
        raise ValueError(f"a tensor of {value.dim()} dimensions has no {len(stride)} strides")
    gap = 1
    for i in sorted((i for i in range(value.dim()) if value.shape[i] != 1), key=lambda i: stride[i]):
        if value.numel() and stride[i] != gap:
            raise ValueError(f"a tensor of shape {list(value.shape)} with strides {stride} has gaps")
        gap *= value.shape[i]
    return torch.empty_strided(value.shape, stride, dtype=value.dtype).copy_(value)
