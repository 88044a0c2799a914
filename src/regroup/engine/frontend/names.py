"""What code finds by names, besides what hangs on the model: globals, closures, classes, modules."""

from __future__ import annotations

import argparse
import contextlib
import types
from collections import ChainMap, UserDict, UserList
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from regroup.engine.frontend.functions import functions_in, is_data, loads_of
from regroup.engine.frontend.holders import MISSING

_LIBRARIES = frozenset({"timm", "torchvision"})
"""Packages whose functions and globals are taken to stay as they are; methods of their classes may change."""


NAMESPACES = (types.SimpleNamespace, argparse.Namespace, ChainMap, UserDict, UserList)
"""Classes of Python's whose objects have what attributes their user gives them."""


class Names:
    """Where the names in a model's code are looked up, with what is there now.

    Attributes:
        entries: by what a name is looked up: (dictionary, name, value; `MISSING` where there is none).
        cells: variables of closures, and their values.
        functions: each with its code, its defaults, and those of its keywords.
        slots: attributes that are in no dictionary: (object, name, value).
        objects: with their types, which decide where their methods are looked up.
        modules: those of Python's whose attributes code reads, by identity.
        contents: dictionaries, lists, sets, arrays and modules of which all is looked at.
        is_late: a name stands for something else than it did before.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[Mapping[str, Any], str, Any]] = []
        self.cells: list[tuple[types.CellType, Any]] = []
        self.functions: list[tuple[types.FunctionType, tuple]] = []
        self.slots: list[tuple[object, str, Any]] = []
        self.objects: list[tuple[object, type]] = []
        self.contents: list[Any] = []
        self.is_late = False
        self.modules: dict[int, types.ModuleType] = {}
        self._known: set[tuple[int, str]] = set()
        self._spaces: list[tuple[object, dict[str, Any]]] = []
        self._families: list[list[type]] = []

    @property
    def places(self) -> set[tuple[int, str]]:
        """What is looked at, by identity and name."""
        return self._known | {(id(one), "") for one in self.contents}

    def compare(self, before: Names) -> None:
        """Find out whether names stand for what they stood for before, where both know them."""
        then = {(id(home), name): value for home, name, value in before.entries if isinstance(home, dict)}
        then |= {(id(cell), ""): value for cell, value in before.cells}
        now = [(id(home), name, value) for home, name, value in self.entries]
        now += [(id(cell), "", value) for cell, value in self.cells]
        self.is_late = any(then.get((home, name), value) is not value for home, name, value in now)

    def add_function(self, function: types.FunctionType) -> None:
        """Take a function, the globals that it reads, and its closure; functions of libraries stay."""
        if is_library(function.__module__):
            return
        defaults = function.__defaults__, function.__kwdefaults__
        self.functions.append((function, (function.__code__, *defaults)))
        home = function.__globals__
        for name in loads_of(function.__code__):
            self._add(home, home, name)
        for cell in function.__closure__ or ():
            if self._is_new(cell, ""):
                with contextlib.suppress(ValueError):  # not assigned yet
                    self.cells.append((cell, cell.cell_contents))

    def add_space(self, owner: object, entries: dict[str, Any]) -> None:
        """Take those of an object's attributes that are wanted."""
        self._spaces.append((owner, entries))

    def add_object(self, value: object, slots: Iterable[str]) -> None:
        """Take an object's type, and its attributes that are in no dictionary."""
        self.objects.append((value, type(value)))
        self.slots += [(value, name, getattr(value, name, MISSING)) for name in slots]

    def add_classes(self, kinds: list[type]) -> None:
        """Take those attributes of classes that are wanted, also where others could hide them later."""
        self._families.append([k for k in kinds if issubclass(k, nn.Module) or not is_library(k.__module__)])

    def finish(self, is_mentioned: Callable[[str], bool], probed: Iterable[str], computed: bool) -> None:
        """Take what is wanted, now that all code has been seen.

        Args:
            is_mentioned: tells whether a name is in the code.
            probed: names of which code asks whether they are there.
            computed: code computes names of attributes.
        """
        probed = list(probed)

        def is_of_class(name: str, value: Any) -> bool:
            return is_mentioned(name) if any(functions_in(value)) else is_data(name)

        def is_of_object(name: str) -> bool:
            return is_data(name) and (computed or is_mentioned(name))

        for kinds in self._families:
            names = {n for kind in kinds for n, value in list(vars(kind).items()) if is_of_class(n, value)}
            for kind in kinds:
                unused = {"__init__"} if issubclass(kind, nn.Module) else set()
                for name in {"forward", *names, *probed} - unused:
                    self._add(kind, vars(kind), name)
        for module in self.modules.values():
            for name in {*filter(is_of_object, vars(module)), *probed}:
                self._add(module, vars(module), name)
        for owner, entries in self._spaces:
            if isinstance(owner, (types.FunctionType, *NAMESPACES)):
                names = {*entries}
            else:
                inherited = (name for kind in type(owner).__mro__[:-1] for name in vars(kind))
                names = {*filter(is_of_object, (*entries, *inherited))}
            for name in names.union(probed):
                self._add(owner, entries, name)

    def _add(self, owner: object, home: Mapping[str, Any], name: str) -> None:
        if self._is_new(owner, name):
            self.entries.append((home, name, home.get(name, MISSING)))

    def _is_new(self, owner: object, name: str) -> bool:
        key = id(owner), name
        is_new = key not in self._known
        self._known.add(key)
        return is_new


def is_library(module: str | None) -> bool:
    """Tell whether a module belongs to a package whose functions are taken to stay."""
    return (module or "").partition(".")[0] in _LIBRARIES
