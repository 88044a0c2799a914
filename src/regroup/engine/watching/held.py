"""Whether Python's objects hold what they held: the same objects, not only equal ones."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import is_
from typing import Any

import numpy as np

from regroup.engine.watching.proof import interfaces
from regroup.kernels.watch.objects import Objects

_LINE = 64


class Held:
    """Objects, with their types and what is in them; whoever makes this holds all of it.

    Args:
        objects: each must still be of its type.
        owners: each must still have the dictionary as its `__dict__`.
        homes: dictionaries: each must still have the same keys and values, in the same order.
        lists: each must still have the same items.
        sets: each must still have equal members.
    """

    def __init__(
        self,
        objects: Sequence[object],
        owners: Sequence[tuple[object, dict]],
        homes: Sequence[tuple[dict, Sequence[tuple[Any, Any]]]],
        lists: Sequence[tuple[list, Sequence[Any]]],
        sets: Sequence[tuple[set | frozenset, frozenset]],
    ) -> None:
        self._objects, self._owners, self._homes = objects, owners, homes
        self._lists, self._sets = lists, sets
        self._kinds = [type(one) for one in objects]
        self._glance = self._native()

    def unchanged(self) -> bool:
        """Tell whether everything holds what it held."""
        if not all(now == then for now, then in self._sets):
            return False
        if self._glance is not None:
            return self._glance()
        return (
            all(type(one) is kind for one, kind in zip(self._objects, self._kinds, strict=True))
            and all(vars(owner) is owned for owner, owned in self._owners)
            and all(_same(_flat(dict.items(home)), _flat(held)) for home, held in self._homes)
            and all(_same(list(now), then) for now, then in self._lists)
        )

    def _native(self) -> Objects | None:
        """Return the same in machine code, for Python's objects lie scattered, and far from the caches."""
        found = interfaces()
        if found is None:
            return None
        homes = [home for home, _ in self._homes]
        spans = [(id(one), 1) for one in (*self._objects, *homes, *(one for one, _ in self._lists))]
        if not found.tag_at:
            spans += [(at, min(1 + len(home) // 4, 8)) for home in homes for at in inside(id(home))]
        glance = Objects(found, self._objects, self._owners, self._homes, self._lists, lines(spans))
        return glance if glance() else None


def lines(spans: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return the addresses of cache lines, each once: of so many from each address on."""
    starts = [address + i * _LINE for address, count in spans for i in range(count)]
    return np.unique(np.array(starts, np.int64) // _LINE * _LINE)


def inside(address: int) -> list[int]:
    """Return what may be addresses among the first words of an object: they are fetched, never read."""
    words = np.frombuffer(ctypes.string_at(address, 48), np.int64)
    return words[(words > 1 << 32) & (words < 1 << 47) & (words % 8 == 0)].tolist()


def _flat(entries: Iterable[tuple[Any, Any]]) -> list[Any]:
    return list(chain.from_iterable(entries))


def _same(now: Sequence[Any], then: Sequence[Any]) -> bool:
    return len(now) == len(then) and all(map(is_, now, then))
