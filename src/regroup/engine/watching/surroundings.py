"""See that names in a model's code still stand for what they stood for when it was recorded."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter, is_
from typing import Any

import numpy as np
from torch import Tensor

from regroup.engine.frontend.equality import ATOMS, equal
from regroup.engine.frontend.names import Names
from regroup.engine.watching.state import State

_LARGEST = 1000
"""Entries of a list or dictionary whose contents are followed too."""


class Surroundings:
    """Global variables, variables of closures, attributes and methods of classes: what the names stand for.

    Each look compares identities, some 50 ns a name; what was there is held, so that no other object gets its
    identity. Lists, dictionaries and sets of plain values are followed too.

    Args:
        names: where they are, and what they stand for.
    """

    def __init__(self, names: Names) -> None:
        dicts = [entry for entry in names.entries if type(entry[0]) is dict]
        proxies = [entry for entry in names.entries if type(entry[0]) is not dict]
        values = [value for _, _, value in names.entries] + [value for _, value in names.cells]
        contents = [value for value in values if _is_list_of_data(value)]
        looks: list[tuple[Callable[[Any], Any], Sequence[Any]]] = [
            (partial(_Entries, dict.get), dicts),
            (partial(_Entries, types.MappingProxyType.get), proxies),
            (_Cells, names.cells),
            (_Contents, contents),
        ]
        self._looks = [make(found).unchanged for make, found in looks if found]

    def unchanged(self) -> bool:
        """Tell whether all names stand for the same, or for plain values that are equal."""
        return all([look() for look in self._looks])  # noqa: C419  a generator takes longer


class _Entries:
    """What is in dictionaries under some keys."""

    def __init__(
        self, get: Callable[..., Any], entries: Sequence[tuple[Mapping[str, Any], str, Any]]
    ) -> None:
        self._get = get
        self._homes, self._keys, self._values = map(list, zip(*entries, strict=True))

    def unchanged(self) -> bool:
        if all(map(is_, map(self._get, self._homes, self._keys), self._values)):
            return True
        values = list(map(self._get, self._homes, self._keys))
        if not all(map(_alike, values, self._values)):
            return False
        self._values = values  # other objects of equal value
        return True


class _Cells:
    """What cells contain."""

    def __init__(self, cells: Sequence[tuple[types.CellType, Any]]) -> None:
        self._cells, self._values = map(list, zip(*cells, strict=True))

    def unchanged(self) -> bool:
        try:
            return all(map(_alike, map(_contents_of, self._cells), self._values))
        except ValueError:  # one is empty now
            return False


class _Contents:
    """What is in lists, dictionaries and sets."""

    def __init__(self, containers: Sequence[Any]) -> None:
        self._containers, self._state = containers, State(containers)

    def unchanged(self) -> bool:
        if self._state.unchanged():
            return True
        now = State(self._containers)
        if now != self._state:
            return False
        self._state = now
        return True


_contents_of = attrgetter("cell_contents")


def _alike(now: Any, then: Any) -> bool:
    return now is then or (type(now) in ATOMS and equal(now, then))


def _is_list_of_data(value: Any) -> bool:
    return type(value) in (list, dict, set, tuple) and _is_data(value)


def _is_data(value: Any) -> bool:
    if type(value) in ATOMS or isinstance(value, (Tensor, np.ndarray)):
        return True
    if type(value) not in (list, dict, set, tuple) or len(value) > _LARGEST:
        return False
    return all(map(_is_data, value.values() if isinstance(value, dict) else value))
