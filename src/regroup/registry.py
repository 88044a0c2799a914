"""Registries: a name for each strategy, network, data set, found without a central list.

>>> shapes = Registry("shape")
>>> square = shapes.add("square", "four equal sides")
>>> shapes["squre"]
Traceback (most recent call last):
regroup.errors.UnknownNameError: shape='squre': must be one of square; did you mean 'square'?

Adding a file to a registry's package is enough: the registry imports the package's modules when it is
first asked, and then the entry points of other installed packages.
"""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from regroup.errors import ParameterError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: what the objects are, one word; used in messages.
        package: the package whose modules register themselves when imported, or None.
        entry_point: group of entry points by which other packages add theirs, or None.
    """

    def __init__(self, kind: str, package: str | None = None, entry_point: str | None = None) -> None:
        self.kind, self._package, self._entry_point = kind, package, entry_point
        self._items: dict[str, T] = {}
        self._found = False

    def add(self, name: str, item: T) -> T:
        """Register `item` as `name`; a name taken by another definition is an error."""
        old = self._items.get(name)
        reloaded = hasattr(item, "__qualname__") and _origin(old) == _origin(item)
        if old is not None and not reloaded:
            raise ParameterError(self.kind, name, "a name that is not taken", f"{_origin(old)} has it")
        self._items[name] = item
        return item

    def __getitem__(self, name: str) -> T:
        """Return the object called `name`, or raise UnknownNameError with the nearest names."""
        self._discover()
        if name in self._items:
            return self._items[name]
        raise unknown_name(self.kind, name, self._items)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._items))

    def __len__(self) -> int:
        self._discover()
        return len(self._items)

    def names(self, pattern: str = "*") -> list[str]:
        """Return the sorted names that match a shell pattern; a bare word matches anywhere in a name."""
        pattern = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
        return [name for name in self if fnmatch.fnmatch(name, pattern)]

    def matching(self, pattern: str) -> list[str]:
        """Return the names that match a pattern, of which there must be one; see `names`.

        Raises:
            UnknownNameError: none matches; the message gives the nearest names.
        """
        found = self.names(pattern)
        if not found:
            word = pattern.strip("*?")
            raise unknown_name("pattern", word, self, f"a part of a {self.kind}'s name, or a shell pattern")
        return found

    def _discover(self) -> None:
        if self._found:
            return
        self._found = True  # first: a module that asks while it is being imported must not recurse
        try:
            if self._package:
                package = importlib.import_module(self._package)
                for module in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{self._package}.{module.name}")
            if self._entry_point:
                for point in entry_points(group=self._entry_point):
                    point.load()
        except BaseException:
            self._found = False
            raise


def _origin(item: object) -> str:
    item = item if hasattr(item, "__qualname__") else type(item)
    return f"{getattr(item, '__module__', '?')}.{getattr(item, '__qualname__', '?')}"
