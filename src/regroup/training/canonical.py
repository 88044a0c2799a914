"""Values and code as JSON that is equal exactly if they are: what of them decides a run.

>>> canonical([1, 0.5, "x", range(3)])
['list', 1, 0.5, 'x', ['range', 'range(0, 3)']]
>>> canonical(nn.ReLU), canonical(nn.ReLU6)
('torch.nn.modules.activation.ReLU', 'torch.nn.modules.activation.ReLU6')
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import json
import pathlib
import re
import sys
import types
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from regroup.files.imports import is_installed

_DEEPEST = 12

_PLAIN = (bool, int, float, str)
_BY_TEXT = (complex, bytes, bytearray, range, slice, np.generic, decimal.Decimal, fractions.Fraction)
_BY_TEXT = (*_BY_TEXT, pathlib.PurePath, re.Pattern, datetime.date, datetime.time, datetime.timedelta)
_BY_TEXT = (*_BY_TEXT, torch.device)
"""What says all of itself by its `repr`."""

_SPACES = (types.SimpleNamespace, argparse.Namespace)


def digest(data: bytes) -> str:
    """Return a hash of bytes, as long as people can compare."""
    return hashlib.sha256(data).hexdigest()[:16]


def digest_of(form: Any) -> str:
    """Return a hash of JSON."""
    return digest(json.dumps(form).encode())


def canonical(value: Any) -> Any:
    """Return JSON that is equal for equal values; what has no such form is the name of its type.

    Objects of the user's own classes are all that they hold, his functions are their code, what it was called
    with by default and what it has enclosed. Modules of networks are only their types: see `structure`.
    """
    return _Form().of(value, 0)


class _Form:
    """The form of one value; an object that comes again is only the number that it had."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def of(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, _PLAIN):
            return value if not isinstance(value, enum.Enum) else str(value)
        if depth > _DEEPEST:
            return type(value).__qualname__
        inner = functools.partial(self.of, depth=depth + 1)
        if isinstance(value, (list, tuple)):
            return [type(value).__name__, *map(inner, value)]
        if isinstance(value, dict):
            return ["dict", *([inner(key), inner(item)] for key, item in value.items())]
        if isinstance(value, (set, frozenset)):
            return ["set", *sorted((inner(item) for item in value), key=str)]
        if isinstance(value, torch.Tensor):
            return ["tensor", str(value.dtype), list(value.shape), digest(_bytes(value))]
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return ["array", str(value.dtype), list(value.shape), digest(value.tobytes())]
        if isinstance(value, functools.partial):
            return ["partial", inner(value.func), inner(value.args), inner(value.keywords)]
        if isinstance(value, (torch.dtype, enum.Enum)):
            return str(value)
        if isinstance(value, _BY_TEXT):
            return [type(value).__qualname__, repr(value)]
        return self._of_object(value, inner)

    def _of_object(self, value: Any, inner: Callable[[Any], Any]) -> Any:
        if isinstance(value, (ModuleType, nn.Module)):
            return type(value).__qualname__
        if isinstance(value, type):
            return name_of(value)
        if id(value) in self.seen:
            return ["again", self.seen[id(value)]]
        self.seen[id(value)] = len(self.seen)
        if isinstance(value, MethodType):
            return ["method", inner(value.__func__), inner(value.__self__)]
        if isinstance(value, FunctionType):
            return name_of(value) if is_of_library(value) else ["function", *map(inner, parts(value))]
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
            return [type(value).__qualname__, inner(fields)]
        if isinstance(value, _SPACES) or not is_of_library(type(value)):
            return [type(value).__qualname__, inner(held(value))]
        return getattr(value, "__qualname__", type(value).__qualname__)


def answers(thing: Any) -> bool:
    """Tell whether a thing can be asked what it is: somebody's stand-in for what is not there raises then."""
    try:
        return thing.__class__ is not None
    except Exception:
        return False


def name_of(thing: Any) -> str:
    """Return the name of a function or class, with where it is from; of a user's file only its name."""
    module = sys.modules.get(thing.__module__)
    file = getattr(module, "__file__", None)
    if is_of_library(thing) or not isinstance(file, str):
        return f"{thing.__module__}.{thing.__qualname__}"
    return f"{pathlib.Path(file).name}:{thing.__qualname__}"


def parts(function: FunctionType) -> list[Any]:
    """Return what a function is made of: its code as a text, defaults, and what it has enclosed."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            cells.append(None)
    return [code_text(function.__code__), function.__defaults__, function.__kwdefaults__, cells]


@lru_cache(maxsize=10_000)
def code_text(code: CodeType) -> str:
    """Return a hash of byte code and all it has in it, but for where it stood: of one release of Python."""
    names = [code.co_qualname, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    numbers = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    return digest_of([names, numbers, code.co_code.hex(), list(map(_constant, code.co_consts))])


def is_of_library(thing: Any) -> bool:
    """Tell whether a function or class is of Python, of an installed package or of regroup."""
    space = getattr(thing, "__globals__", None) if isinstance(thing, FunctionType) else None
    name = getattr(thing, "__module__", None) if space is None else space.get("__name__")
    return isinstance(name, str) and _is_library(name, sys.modules.get(name))


def _is_library(name: str, module: ModuleType | None) -> bool:
    if name == "__main__":
        return False
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return is_installed(pathlib.Path(file))
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return True
    return top != name and _is_library(top, sys.modules.get(top))  # made by a package while it runs


def _constant(value: Any) -> Any:
    """Return the form of a constant in code: 1, 1.0 and True are three."""
    if isinstance(value, CodeType):
        return code_text(value)
    if isinstance(value, tuple):
        return list(map(_constant, value))
    if isinstance(value, frozenset):
        return sorted(map(_constant, value), key=str)
    return f"{type(value).__name__} {value!r}"


def held(value: Any) -> dict[str, Any]:
    """Return an object's attributes, also those that are in slots."""
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    held = {name: getattr(value, name) for name in slots if isinstance(name, str) and hasattr(value, name)}
    return held | dict(sorted(getattr(value, "__dict__", {}).items()))


def _bytes(value: torch.Tensor) -> bytes:
    if value.device.type == "meta":
        return b""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
