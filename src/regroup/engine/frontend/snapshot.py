"""What Python holds of a model: seen before a recording, compared after it, put back.

A recording runs the model's own Python code, which may keep things: in attributes, lists, closures, globals,
random generators. None of that may be left of a recording, and a network that does it cannot be recorded:
what it computes depends on the calls before.

>>> import torch
>>> from torch import nn
>>> model = nn.ReLU()
>>> before = Snapshot(model)
>>> model.calls = 1
>>> [change.name for change in before.changes()]
['ReLU.calls']
>>> before.put_back(before.changes())
>>> hasattr(model, "calls")
False
"""

from __future__ import annotations

import array
import contextvars
import copy
import functools
import gc
import random
import sys
import threading
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regroup.engine.frontend.equality import ATOMS, equal
from regroup.engine.frontend.functions import (
    CACHED,
    attributes_of,
    calls_by_text,
    functions_in,
    imports_of,
    is_data,
    loads_of,
    looks_up_by_text,
    names_of,
    probes_of,
    stores_of,
)
from regroup.engine.frontend.holders import (
    MISSING,
    Attributes,
    Change,
    Contents,
    Entries,
    Globals,
    Holder,
    Items,
    Members,
)
from regroup.engine.frontend.names import NAMESPACES, Names, is_library
from regroup.errors import EngineError

_OTHERS = frozenset({"torch", "numpy", "regroup", "builtins", *sys.stdlib_module_names} - {"__main__"})
"""Packages whose own functions, classes and objects keep nothing of a model's calls."""

_DERIVED = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm", "torch.nn.utils.prune")
"""Where PyTorch's hooks come from that compute a weight anew in every call, and keep it as an attribute."""

_OF_CLASSES = ("__init_subclass__", "__class_getitem__", "__subclasshook__", "__set_name__", "__prepare__")
"""Methods that Python calls when classes are made."""

_BY_TEXT = frozenset(("eval", "exec", "globals", "locals"))
"""Functions by which code finds names that cannot be known from it."""

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_INTERNALS = frozenset(vars(nn.Module()))
"""Attributes of every module; but for the registries they hold hooks, which `capture.py` looks at."""


class Snapshot:
    """Everything that Python code can reach from a model, and change, as it is now.

    Attributes:
        storages: addresses of the memory of all tensors among it.
        names: what names in its code stand for.

    Args:
        model: a module, or anything else.
        ran: identities of the only code that counts; all by default.

    Raises:
        EngineError: there is something among it that cannot be looked at without changing it, or, in code
            that ran, something that cannot be followed.
    """

    def __init__(self, model: object, ran: Collection[int] | None = None) -> None:
        self._ran = ran
        self.storages: set[int] = set()
        self.names = Names()
        self._holders: list[Holder] = []
        self._seen: dict[int, object] = {}
        self._kept: dict[int, Tensor] = {}
        self._stack: list[tuple[object, str]] = [(model, type(model).__name__)]
        self._mentioned, self._texts, self._probed, self._computed = {"forward"}, set(), set(), False
        self._waiting: dict[str, list[object]] = {}
        self._derived = _derived_names(model) if isinstance(model, nn.Module) else set()
        self._add_random_generators()
        while self._stack:
            self._visit(*self._stack.pop())
        self.names.finish(self._is_mentioned, self._probed, self._computed)

    def holds(self, value: object) -> bool:
        """Tell whether `value` is an object that the model holds."""
        return self._seen.get(id(value), MISSING) is value

    def changes(self) -> list[Change]:
        """Return what is not as it was: which objects there are, and what is in arrays."""
        found = []
        for holder in self._holders:
            now, before = holder.read(), holder.before
            for key in {**before, **now}:
                old, new = before.get(key, MISSING), now.get(key, MISSING)
                if old is not new:
                    derived = (id(holder.object), key) in self._derived and isinstance(new, Tensor)
                    matters = not derived and not equal(old, new)
                    if matters or not isinstance(holder, Contents):
                        found.append(Change(holder, key, old, new, holder.label(key), matters))
        return found

    @staticmethod
    def put_back(changes: Iterable[Change]) -> None:
        """Let what changed be as it was."""
        holders = {}
        for change in changes:
            change.holder.write(change.key, change.old)
            holders[id(change.holder)] = change.holder
        for holder in holders.values():
            holder.settle()

    def keep_numbers(self, tensor: Tensor) -> None:
        """Remember a tensor's numbers too, for the model reads or writes them without PyTorch."""
        if tensor.device.type == "cpu" and tensor.layout == torch.strided and id(tensor) not in self._kept:
            self._kept[id(tensor)], source = tensor, tensor.detach()
            self._holders.append(Contents(tensor, "a tensor's numbers", source.clone, source.copy_))

    def _add_random_generators(self) -> None:
        generators: list[tuple[str, Any, Any]] = [
            ("Python's random numbers", random.getstate, random.setstate),
            ("PyTorch's random numbers", torch.get_rng_state, torch.set_rng_state),
            ("NumPy's random numbers", np.random.get_state, np.random.set_state),
        ]
        self._holders += [Contents(get, name, get, put) for name, get, put in generators]

    def _visit(self, value: Any, name: str) -> None:
        kind = type(value)
        if kind in ATOMS or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._visit_tensor(value, name)
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            self._visit_function(value, name)
        elif isinstance(value, type):
            self._visit_class(value)
        elif isinstance(value, (dict, list, tuple, set, frozenset, deque, types.MappingProxyType)):
            self._visit_container(value, name)
        elif isinstance(value, (np.ndarray, bytearray, array.array)):
            self.names.contents.append(value)
            read = functools.partial(copy.copy, value)
            self._holders.append(Contents(value, name, read, functools.partial(_refill, value)))
        elif isinstance(value, memoryview):
            self._stack.append((value.obj, name))
        elif isinstance(value, types.ModuleType):
            self._visit_space(value)
        elif not isinstance(value, types.BuiltinFunctionType):
            self._visit_object(value, name)

    def _visit_tensor(self, tensor: Tensor, name: str) -> None:
        if tensor.layout == torch.strided and tensor.device.type == "cpu":
            self.storages.add(tensor.untyped_storage().data_ptr())
        if vars(tensor):
            self._add(Entries(vars(tensor), name, attributes=True))

    def _visit_function(self, function: Any, name: str) -> None:
        if isinstance(function, types.MethodType):
            self._stack += [(function.__self__, name), (function.__func__, name)]
        elif isinstance(function, functools.partial):
            self._stack += [(function.func, name), (function.args, name), (function.keywords, name)]
        elif not is_other(function.__module__):
            if vars(function):
                self._add(Entries(vars(function), name, attributes=True))
            self.names.add_space(function, vars(function))
            if self._ran is None or id(function.__code__) in self._ran:
                self._visit_code(function, name)

    def _visit_code(self, function: types.FunctionType, name: str) -> None:
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._add(Attributes(cell, variable, lambda: ("cell_contents",)))
        self.names.add_function(function)
        self._stack += [(function.__defaults__, name), (function.__kwdefaults__, name)]
        self._mention(function.__code__)
        self._visit_globals(function)

    def _mention(self, code: types.CodeType) -> None:
        """Visit the methods that a function can call, by the names in it: of a class's methods only those."""
        self._texts |= calls_by_text(code)
        self._probed |= probes_of(code)
        self._computed |= looks_up_by_text(code)
        self._mentioned |= names_of(code)
        for name in [name for name in self._waiting if self._is_mentioned(name)]:
            self._stack += [(function, name) for function in self._waiting.pop(name)]

    def _is_mentioned(self, name: str) -> bool:
        if name.startswith("__") and name.endswith("__"):
            return name not in _OF_CLASSES
        if name in self._mentioned:
            return True
        return any(name.startswith(text) or name.endswith(text) for text in self._texts)

    def _visit_globals(self, function: types.FunctionType) -> None:
        code, names = function.__code__, function.__globals__
        stored = stores_of(code)
        if stored:
            self._add(Globals(names, stored))
        by_text = _BY_TEXT & (loads_of(code) - names.keys())
        if by_text and self._ran is not None and not is_library(function.__module__):
            raise EngineError(f"{code.co_name} finds names by {min(by_text)}(), which cannot be followed")
        for name in loads_of(code):
            value = names.get(name, MISSING)
            if isinstance(value, types.ModuleType):
                self._visit_attributes_of(value, attributes_of(code))
            elif value is not MISSING:
                self._stack.append((value, name))
        home = names.get("__package__") or ""
        for name in imports_of(code):
            self._stack += [(sys.modules.get(path), name) for path in (name, f"{home}.{name}".rstrip("."))]

    def _visit_attributes_of(self, module: types.ModuleType, names: Collection[str]) -> None:
        """Visit what code with these names may read of a module, and of modules in it."""
        left, seen = [module], set()
        while left:
            module = left.pop()
            if is_other(module.__name__) or module in seen:
                continue
            seen.add(module)
            found = vars(module).keys() & names
            self.names.modules[id(module)] = module
            values = [(vars(module)[one], one) for one in found]
            left += [value for value, _ in values if isinstance(value, types.ModuleType)]
            self._stack += [(value, one) for value, one in values if not isinstance(value, types.ModuleType)]

    def _visit_space(self, module: types.ModuleType) -> None:
        """Visit a module that is held or imported: what any code may read of it."""
        if not is_other(module.__name__):
            self.names.modules[id(module)] = module
            for name, value in list(vars(module).items()):
                if not name.startswith("__"):
                    self._visit_if_mentioned(name, [value])

    def _visit_if_mentioned(self, name: str, values: list[Any]) -> None:
        if self._is_mentioned(name):
            self._stack += [(value, name) for value in values]
        elif values:
            self._waiting.setdefault(name, []).extend(values)

    def _visit_class(self, kind: type) -> None:
        self.names.add_classes([one for one in kind.__mro__ if not is_other(one.__module__)])
        for one in kind.__mro__:
            if is_other(one.__module__) or (one is not kind and id(one) in self._seen):
                continue
            self._seen[id(one)] = one
            keys = functools.partial(_data_of_class, one)
            self._add(Attributes(one, one.__name__, keys))
            module = issubclass(one, nn.Module)
            for name, value in list(vars(one).items()):
                if module and name == "__init__":
                    continue
                self._visit_if_mentioned(name, list(functions_in(value)))
                if hasattr(type(value), "__get__") and not is_other(type(value).__module__):
                    self._stack.append((value, name))  # a descriptor of the user's own
        if not is_other(type(kind).__module__):
            self._stack.append((type(kind), kind.__name__))

    def _visit_container(self, value: Any, name: str) -> None:
        if isinstance(value, (tuple, frozenset)):
            self._stack += [(one, name) for one in value if type(one) not in ATOMS]
        else:
            self.names.contents.append(value)
        if isinstance(value, types.MappingProxyType):
            self._stack += [(one, name) for one in gc.get_referents(value)]
        elif isinstance(value, dict):
            self._add(Entries(value, name))
        elif isinstance(value, (list, deque)):
            self._add(Items(value, name))
        elif isinstance(value, set):
            self._add(Members(value, name))
        if type(value).__module__ not in ("builtins", "collections"):
            self._visit_object(value, name)

    def _visit_object(self, value: Any, name: str) -> None:
        kind = type(value)
        if isinstance(value, nn.Module):
            self._visit_module(value)
        elif hasattr(kind, "__next__") or isinstance(value, random.SystemRandom):
            raise EngineError(f"{name} is a {kind.__name__}, and to look at it would change it")
        elif self._ran is not None and isinstance(value, (contextvars.ContextVar, threading.local)):
            raise EngineError(f"{name} is a {kind.__name__}, which has a value for each caller")
        elif isinstance(value, random.Random):
            self._holders.append(Contents(value, name, value.getstate, value.setstate))
        elif isinstance(value, (torch.Generator, np.random.RandomState)):
            self._holders.append(Contents(value, name, value.get_state, value.set_state))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            get, put = (lambda: bits.state), functools.partial(setattr, bits, "state")
            self._holders.append(Contents(value, name, get, put))
        elif isinstance(value, weakref.ReferenceType):
            self._stack.append((value(), name))
        elif isinstance(value, CACHED):
            self._stack.append((value.__wrapped__, name))
        elif not is_other(kind.__module__) or isinstance(value, NAMESPACES):
            self._visit_attributes(value, kind.__name__)

    def _visit_module(self, module: nn.Module) -> None:
        attributes, name = vars(module), type(module).__name__
        self.names.contents.append(module)
        self._add(Entries(attributes, name, attributes=True), but=_INTERNALS)
        for registry in _REGISTRIES:
            entries = attributes.get(registry)
            if type(entries) in (dict, OrderedDict):
                self._seen[id(entries)] = entries
                self._add(Entries(entries, name, attributes=True, registry=True))
        self._stack.append((type(module), name))

    def _visit_attributes(self, value: Any, name: str) -> None:
        if isinstance(getattr(value, "__dict__", None), dict):
            self._add(Entries(vars(value), name, attributes=True))
            self.names.add_space(value, vars(value))
        slots = [s for kind in type(value).__mro__ for s in _slots(kind)]
        if slots:
            self._add(Attributes(value, name, lambda: slots))
        self.names.add_object(value, slots)
        self._stack.append((type(value), name))

    def _add(self, holder: Holder, but: Collection[str] = ()) -> None:
        self._holders.append(holder)
        for key, value in holder.before.items():
            if type(value) not in ATOMS and key not in but:
                self._stack.append((value, holder.label(key)))


def _refill(buffer: Any, numbers: Any) -> None:
    buffer[... if isinstance(buffer, np.ndarray) else slice(None)] = numbers


def is_other(module: str | None) -> bool:
    """Tell whether a module belongs to a package that keeps nothing of a model's calls."""
    return (module or "builtins").partition(".")[0] in _OTHERS


def _slots(kind: type) -> Iterator[str]:
    slots = vars(kind).get("__slots__", ())
    for name in (slots,) if isinstance(slots, str) else slots:
        if name not in ("__dict__", "__weakref__"):
            private = name.startswith("__") and not name.endswith("__")
            yield f"_{kind.__name__.lstrip('_')}{name}" if private else name


def _data_of_class(kind: type) -> list[str]:
    """Return the names of a class's attributes that are neither functions nor Python's own."""
    found = vars(kind).items()
    return [name for name, value in found if is_data(name) and not hasattr(type(value), "__get__")]


def _derived_names(model: nn.Module) -> set[tuple[int, str]]:
    """Return what PyTorch's hooks set at every call: (the dictionary's identity, the name)."""
    found = set()
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if _is_derivation(hook):
                found.add((id(vars(module)), getattr(hook, "name", getattr(hook, "_tensor_name", ""))))
    return found


def is_followed(hook: object) -> bool:
    """Tell whether a hook is marked as stateless, or one of PyTorch's that compute a weight from others."""
    checks = getattr(hook, "__module__", "") == "torch.export._unlift"  # of an exported model's inputs
    return getattr(hook, "is_stateless", False) or _is_derivation(hook) or checks


def _is_derivation(hook: object) -> bool:
    return any(kind.__module__ in _DERIVED for kind in type(hook).__mro__)
