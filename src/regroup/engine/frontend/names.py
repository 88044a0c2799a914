"""What names in Python code stand for: global variables, variables of closures, attributes of classes."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from regroup.engine.frontend.functions import attributes_of, loads_of

_LIBRARIES = frozenset({"timm", "torchvision"})
"""Packages whose names stand for the same as long as they are loaded."""


class Names:
    """Names that a model's code uses, with what they stand for.

    Code of PyTorch, timm, torchvision and regroup is taken to stay what it is.

    Attributes:
        entries: a global or a class's attribute each: (dictionary, name, value; None where there is none).
        cells: variables of closures, and their values.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[Mapping[str, Any], str, Any]] = []
        self.cells: list[tuple[types.CellType, Any]] = []
        self._known: set[tuple[int, str]] = set()

    def add_function(self, function: types.FunctionType) -> None:
        """Take the globals and closure of a function, and what it may read of modules."""
        if is_library(function.__module__):
            return
        home, code = function.__globals__, function.__code__
        for name in loads_of(code):
            value = home.get(name)
            if not isinstance(value, types.ModuleType):
                if name in home:
                    self._add(home, home, name)
            elif not is_library(value.__name__):
                inside = vars(value)
                for one in attributes_of(code) & inside.keys():
                    self._add(inside, inside, one)
        for cell in function.__closure__ or ():
            if self._is_new(cell, ""):
                with contextlib.suppress(ValueError):  # not assigned yet
                    self.cells.append((cell, cell.cell_contents))

    def add_classes(self, kinds: Iterable[type], wanted: Callable[[str, Any], bool]) -> None:
        """Take those attributes of classes that are wanted, also where others could hide them later."""
        kinds = [kind for kind in kinds if not is_library(kind.__module__)]
        names = {name for kind in kinds for name, value in list(vars(kind).items()) if wanted(name, value)}
        for kind in kinds:
            for name in names | {"forward"}:
                self._add(kind, vars(kind), name)

    def _add(self, owner: object, home: Mapping[str, Any], name: str) -> None:
        if self._is_new(owner, name):
            self.entries.append((home, name, home.get(name)))

    def _is_new(self, owner: object, name: str) -> bool:
        key = id(owner), name
        is_new = key not in self._known
        self._known.add(key)
        return is_new


def is_library(module: str | None) -> bool:
    """Tell whether a module's code is taken to stay what it is."""
    return (module or "builtins").partition(".")[0] in _LIBRARIES
