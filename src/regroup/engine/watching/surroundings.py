"""See that names in a model's code still stand for what they stood for when it was recorded."""

from __future__ import annotations

import array
import gc
import types
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regroup.engine.frontend.equality import ATOMS, equal
from regroup.engine.frontend.holders import MISSING
from regroup.engine.frontend.names import Names
from regroup.engine.watching.held import Held
from regroup.engine.watching.state import State, Watched


class Surroundings:
    """Global variables, closures, classes, other objects: what the names in a model's code stand for.

    Each look compares identities, some 50 ns a name; what was there is held, so that no other object gets its
    identity.

    Args:
        names: where they are, and what they stand for.
        state: what the model itself holds, which is watched already.

    Attributes:
        tensors: the numbers of arrays, as tensors of bytes; they are not looked at here.
    """

    def __init__(self, names: Names, state: State) -> None:
        entries = [entry for entry in names.entries if not state.follows(entry[0])]
        places: list[tuple[Callable[..., Any], Sequence[tuple[Any, str, Any]]]] = [
            (dict.get, [entry for entry in entries if isinstance(entry[0], dict)]),
            (types.MappingProxyType.get, [entry for entry in entries if not isinstance(entry[0], dict)]),
            (getattr, names.slots),
        ]
        looks: list[Any] = [_Places(get, *zip(*found, strict=True)) for get, found in places if found]
        looks += [_Cells(*zip(*names.cells, strict=True))] if names.cells else []
        looks += [_Functions(names.functions)] if names.functions else []
        looks += [_Types(*zip(*names.objects, strict=True))] if names.objects else []
        followed = (dict, list, set, nn.Module)
        contents = [x for x in names.contents if not (isinstance(x, followed) and state.follows(x))]
        contents += [gc.get_referents(one)[0] for one in contents if isinstance(one, types.MappingProxyType)]
        containers = [one for one in contents if isinstance(one, (dict, list, set))]
        looks += [_Contents(containers)] if containers else []
        modules = [one for one in contents if isinstance(one, nn.Module)]
        looks += [Watched(modules)] if modules else []
        buffers = [one for one in contents if isinstance(one, (np.ndarray, bytearray, array.array, deque))]
        looks += [_Buffers(buffers)] if buffers else []
        self._looks = [look.unchanged for look in looks]
        self._is_late = names.is_late
        found = [_tensor_of(one) for one in buffers]
        self.tensors = [tensor for tensor in found if tensor is not None]

    def unchanged(self) -> bool:
        """Tell whether all names stand for the same, or for plain values that are equal."""
        return not self._is_late and all([look() for look in self._looks])  # noqa: C419  a generator takes longer


class _Places:
    """What is found in some places by some names."""

    def __init__(
        self, get: Callable[..., Any], homes: Sequence[Any], keys: Sequence[str], values: Sequence[Any]
    ) -> None:
        self._get, self._homes, self._keys, self._values = get, homes, keys, values

    def unchanged(self) -> bool:
        if all(map(is_, map(self._get, self._homes, self._keys, repeat(MISSING)), self._values)):
            return True
        values = list(map(self._get, self._homes, self._keys, repeat(MISSING)))
        if not all(map(_alike, values, self._values)):
            return False
        self._values = values  # other objects of equal value
        return True


class _Cells:
    """What cells contain."""

    def __init__(self, cells: Sequence[types.CellType], values: Sequence[Any]) -> None:
        self._cells, self._values = cells, values

    def unchanged(self) -> bool:
        try:
            return all(map(_alike, map(_contents_of, self._cells), self._values))
        except ValueError:  # one is empty now
            return False


class _Types:
    """Of which types objects are."""

    def __init__(self, objects: Sequence[object], kinds: Sequence[type]) -> None:
        self._objects, self._kinds = objects, kinds

    def unchanged(self) -> bool:
        return all(map(is_, map(type, self._objects), self._kinds))


class _Functions:
    """What functions are made of."""

    def __init__(self, functions: Sequence[tuple[types.FunctionType, tuple]]) -> None:
        self._functions = [function for function, _ in functions]
        self._parts = [part for _, parts in functions for part in parts]

    def unchanged(self) -> bool:
        return all(map(is_, chain.from_iterable(map(_parts_of, self._functions)), self._parts))


class _Contents:
    """What is in dictionaries, lists and sets."""

    def __init__(self, containers: Sequence[Any]) -> None:
        self._containers = containers
        self._items = list(map(_items, containers))
        self._held = self._hold()

    def unchanged(self) -> bool:
        if self._held.unchanged():
            return True
        items = list(map(_items, self._containers))
        if not all(map(_all_alike, items, self._items)):
            return False
        self._items = items  # other objects of equal value
        self._held = self._hold()
        return True

    def _hold(self) -> Held:
        found = list(zip(self._containers, self._items, strict=True))
        homes = [(one, items) for one, items in found if isinstance(one, dict)]
        lists = [(one, items) for one, items in found if isinstance(one, list)]
        sets = [(one, frozenset(items)) for one, items in found if isinstance(one, set)]
        return Held([], [], homes, lists, sets)


class _Buffers:
    """Arrays and queues, whose numbers no version counts: `_tensor_of` has those of most arrays."""

    def __init__(self, buffers: Sequence[Any]) -> None:
        self._readers = [partial(_facts, one, _tensor_of(one) is None) for one in buffers]
        self._facts = [read() for read in self._readers]

    def unchanged(self) -> bool:
        return all(map(_all_alike, [read() for read in self._readers], self._facts))


def _facts(buffer: Any, whole: bool) -> Sequence[Any]:
    if isinstance(buffer, np.ndarray):
        numbers = buffer.tobytes() if whole else b""
        return *buffer.shape, *buffer.strides, buffer.dtype, buffer.ctypes.data, numbers
    return list(buffer) if isinstance(buffer, deque) else [bytes(buffer)]


def _tensor_of(buffer: Any) -> Tensor | None:
    """Return an array's numbers as a tensor, whose changes can be looked for without reading all of them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it may not be written to
            return torch.from_numpy(buffer) if type(buffer) is np.ndarray else None
    except (TypeError, ValueError):  # numbers that PyTorch does not have, or that lie backwards
        return None


def _items(container: Any) -> list[Any]:
    return [*dict.items(container)] if isinstance(container, dict) else list(container)


_contents_of = attrgetter("cell_contents")
_parts_of = attrgetter("__code__", "__defaults__", "__kwdefaults__")


def _alike(now: Any, then: Any) -> bool:
    if now is then:
        return True
    if type(now) is tuple and type(then) is tuple:  # an entry of a dictionary
        return len(now) == len(then) and all(map(_alike, now, then))
    return type(now) in ATOMS and equal(now, then)


def _all_alike(now: Sequence[Any], then: Sequence[Any]) -> bool:
    return len(now) == len(then) and all(map(_alike, now, then))
