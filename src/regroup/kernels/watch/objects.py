"""See in microseconds whether Python's dictionaries, lists and objects hold what they held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.words import pointer, put, word
from regroup.kernels.machine.target import Target
from regroup.kernels.watch.glance import Glance, Interfaces, Looking

_ARRAYS = (
    "lines", "objects", "kinds", "owners", "owned", "homes", "home_sizes", "home_starts", "tags",
    "keys", "values", "lists", "list_sizes", "items",
)  # fmt: skip
_NUMBERS = ("line_count", "object_count", "owner_count", "home_count", "list_count")


class Objects:
    """Objects of Python as they are now; called, it tells whether they still are so.

    Whoever makes this holds everything that is in them, so that an address stands for one object.

    Args:
        interfaces: how to ask.
        objects: each must still have its type.
        owners: each must still have the dictionary as its `__dict__`.
        homes: dictionaries: each must still have the same keys and values, in the same order.
        lists: each must still have the same items.
        lines: addresses of the cache lines that are read. All are asked for at once, instead of waiting for
            one after the other; nothing is read by these addresses, so they need not be valid for ever.
    """

    def __init__(
        self,
        interfaces: Interfaces,
        objects: Sequence[object],
        owners: Sequence[tuple[object, dict]],
        homes: Sequence[tuple[Mapping[Any, Any], Sequence[tuple[Any, Any]]]],
        lists: Sequence[tuple[list, Sequence[Any]]],
        lines: np.ndarray,
    ) -> None:
        entries = [entry for _, held in homes for entry in held]
        sizes = np.array([len(held) for _, held in homes], np.int64)
        arrays = {
            "lines": lines,
            "objects": _addresses(objects),
            "kinds": _addresses([type(one) for one in objects]),
            "owners": _addresses([owner for owner, _ in owners]),
            "owned": _addresses([owned for _, owned in owners]),
            "homes": _addresses([home for home, _ in homes]),
            "home_sizes": sizes,
            "home_starts": np.cumsum(sizes) - sizes,
            "tags": np.zeros(len(homes), np.int64),  # which no dictionary has: the first look sets them
            "keys": _addresses([key for key, _ in entries]),
            "values": _addresses([value for _, value in entries]),
            "lists": _addresses([one for one, _ in lists]),
            "list_sizes": np.array([len(held) for _, held in lists], np.int64),
            "items": _addresses([item for _, held in lists for item in held]),
        }
        counts = (len(lines), len(objects), len(owners), len(homes), len(lists))
        self._glance = Glance(_look, interfaces, arrays, dict(zip(_NUMBERS, counts, strict=True)))

    def __call__(self) -> bool:
        """Tell whether all is as it was."""
        return self._glance() == 0


def _addresses(objects: Sequence[object]) -> np.ndarray:
    return np.array([id(one) for one in objects], np.int64)


def _look(target: Target) -> Code:
    look = Looking(target, "glance_objects", (*_ARRAYS, *_NUMBERS))
    code, field = look.code, look.field
    for i in code.each(0, field["line_count"]):
        code.prefetch(pointer(code, look.entry("lines", i)), 0)
    for i in code.each(0, field["object_count"]):
        look.compare(
            word(code, pointer(code, look.entry("objects", i)), field["kind_at"]), look.entry("kinds", i)
        )
    null = Value(code, "null", "ptr")
    for i in code.each(0, field["owner_count"]):
        owned = look.call("dict_of", "ptr", pointer(code, look.entry("owners", i)), null)
        look.compare(code.emit("i64", f"ptrtoint ptr {owned} to i64"), look.entry("owned", i))
        look.release(owned)
    _look_at_homes(look)
    _look_at_lists(look)
    return look.finish()


def _look_at_homes(look: Looking) -> None:
    """Compare what is in dictionaries whose tags are others than at the last look, or that have none."""
    code, tag_at = look.code, look.field["tag_at"]
    cells = [look.cell() for _ in range(3)]
    for i in code.each(0, look.field["home_count"]):
        home = pointer(code, look.entry("homes", i))
        tag = word(code, home, tag_at)
        other = code.compare("ne", tag, look.entry("tags", i))
        for _ in code.when(code.select(code.compare("eq", tag_at, 0), Value(code, "true", "i1"), other)):
            _look_at_home(look, home, i, cells)
            for _ in code.when(look.same()):
                look.put_entry("tags", i, tag)


def _look_at_home(look: Looking, home: Value, i: Operand, cells: Sequence[Value]) -> None:
    code, (position, key, value) = look.code, cells
    put(code, position, 0, 0)
    for j in code.each(0, look.entry("home_sizes", i)):
        put(code, value, 0, 0)  # for a dictionary that has become shorter
        look.call("next", "i32", home, position, key, value)
        place = look.entry("home_starts", i) + j
        look.compare(word(code, key, 0), look.entry("keys", place))
        look.compare(word(code, value, 0), look.entry("values", place))
    look.compare(look.call("next", "i32", home, position, key, value), 0)


def _look_at_lists(look: Looking) -> None:
    code, number = look.code, look.cell()
    put(code, number, 0, 0)
    for i in code.each(0, look.field["list_count"]):
        one, size = pointer(code, look.entry("lists", i)), look.entry("list_sizes", i)
        now = look.call("list_size", "i64", one)
        look.compare(now, size)
        start = word(code, number, 0)
        for _ in code.when(code.compare("eq", now, size)):  # an item that is not there would be an exception
            for j in code.each(0, size):
                item = look.call("list_item", "ptr", one, code.value(j, "i64"))
                look.compare(code.emit("i64", f"ptrtoint ptr {item} to i64"), look.entry("items", start + j))
        put(code, number, 0, start + size)
