"""Whether two values are the same for everybody who reads them."""

from __future__ import annotations

import array
import gc
import types
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), range, slice, type(...), type(NotImplemented)}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, types.CodeType}
)
"""Types of what cannot change."""

_PHANTOM = object()
"""Stands for a tensor without numbers."""


def is_phantom(value: Any) -> bool:
    """Tell whether `value` is a tensor that only a recording has."""
    return isinstance(value, Tensor) and (torch._is_functional_tensor(value) or known(value) is _PHANTOM)


def known(value: Any) -> Any:
    """Return a tensor without PyTorch's functionalization around it, `_PHANTOM` for one without numbers."""
    if not isinstance(value, Tensor):
        return value
    if torch._is_functional_tensor(value):
        value = torch._from_functional_tensor(value)
    return _PHANTOM if getattr(type(value), "is_phantom", False) else value


def equal(a: Any, b: Any) -> bool:
    """Tell whether two values are the same for everybody who reads them."""
    a, b = known(a), known(b)
    if a is _PHANTOM or b is _PHANTOM or type(a) is not type(b):
        return False
    if a is b:
        return True
    if isinstance(a, Tensor):
        return _equal_tensors(a, b)
    if isinstance(a, (list, tuple, deque)):
        kinds = list(map(type, a))
        if kinds != list(map(type, b)):
            return False
        return (ATOMS.issuperset(kinds) and a == b) or all(map(equal, a, b))
    if isinstance(a, (dict, OrderedDict, defaultdict)):
        return list(a) == list(b) and all(map(equal, a.values(), b.values()))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, array.array):
        return a.typecode == b.typecode and a.tobytes() == b.tobytes()
    if type(a) in ATOMS:
        return a == b or (a != a and b != b)
    if isinstance(a, (bytearray, set, frozenset)):
        return a == b
    return False


def _equal_tensors(a: Tensor, b: Tensor) -> bool:
    alike = a.dtype == b.dtype and a.shape == b.shape and a.requires_grad == b.requires_grad
    plain = all(one.layout == torch.strided and one.device.type == "cpu" for one in (a, b))
    return alike and plain and numbers_of(a) == numbers_of(b)


def numbers_of(tensor: Tensor) -> bytes:
    """Return the numbers of a tensor on the CPU, as they lie in memory when it is contiguous."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def holders_of(phantom: object) -> str:
    """Return in words what keeps a tensor alive, as far as Python knows."""
    kinds = {type(holder).__name__ for holder in gc.get_referrers(phantom)}
    return " or ".join(f"a {kind}" for kind in sorted(kinds - {"frame"})) or "something outside of Python"
