"""What can hold something of a model, and be read and written: a dictionary, a list, a closure's cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from regroup.engine.frontend.equality import is_phantom

MISSING = object()
"""Stands for no entry at all."""


@dataclass(frozen=True)
class Change:
    """One entry of something the model holds is not what it was.

    Attributes:
        holder: what holds it.
        key: which entry.
        old: what it was; `MISSING` where there was none.
        new: what it is.
        name: for people, like 'Smooth.last'.
        matters: it is another value, and not only another object of equal value.
    """

    holder: Holder
    key: Any
    old: Any
    new: Any
    name: str
    matters: bool

    @property
    def keeps_phantom(self) -> bool:
        """What is there now is a tensor without numbers."""
        return is_phantom(self.new)

    @property
    def is_weight(self) -> bool:
        """A module's parameter, buffer or module is another one: another thread may have done that."""
        return self.holder.registry and not self.keeps_phantom


class Holder:
    """Something with entries that can be read and written.

    Attributes:
        object: what it is.
        name: for people.
        before: its entries when the holder was made.
    """

    registry = False

    def __init__(self, object: Any, name: str) -> None:
        self.object, self.name = object, name
        self.before = self.read()

    def read(self) -> Mapping[Any, Any]:
        """Return the entries as they are now."""
        raise NotImplementedError

    def write(self, key: Any, value: Any) -> None:
        """Set an entry, or remove it if `value` is `MISSING`."""
        raise NotImplementedError

    def label(self, key: Any) -> str:
        """Return the name of an entry."""
        return f"{self.name}[{key!r}]" if isinstance(key, (str, int)) else self.name

    def settle(self) -> None:
        """Bring the entries into their old order, once they are the old ones."""


class Entries(Holder):
    """A dictionary.

    Attributes:
        attributes: its keys are names of attributes.
        registry: it has a module's parameters, buffers or modules.
    """

    def __init__(self, object: Any, name: str, attributes: bool = False, registry: bool = False) -> None:
        self.attributes, self.registry = attributes, registry
        super().__init__(object, name)

    def read(self) -> Mapping[Any, Any]:
        return dict(self.object.items())

    def write(self, key: Any, value: Any) -> None:
        if value is MISSING:
            self.object.pop(key, None)
        else:
            self.object[key] = value

    def label(self, key: Any) -> str:
        return f"{self.name}.{key}" if self.attributes else super().label(key)

    def settle(self) -> None:
        if list(self.object) != list(self.before):
            for key in [key for key in self.before if key in self.object]:
                self.object[key] = self.object.pop(key)


class Items(Holder):
    """A list or deque."""

    def read(self) -> Mapping[Any, Any]:
        return dict(enumerate(self.object))

    def write(self, key: Any, value: Any) -> None:
        """Is done by `settle`: places in a list move."""

    def settle(self) -> None:
        self.object.clear()
        self.object.extend(self.before.values())


class Members(Holder):
    """A set."""

    def read(self) -> Mapping[Any, Any]:
        return dict.fromkeys(self.object)

    def write(self, key: Any, value: Any) -> None:
        (self.object.discard if value is MISSING else self.object.add)(key)


class Attributes(Holder):
    """Attributes, by name: slots, a class's data, a global that a function assigns, a closure's cell."""

    def __init__(self, object: Any, name: str, keys: Callable[[], Iterable[str]]) -> None:
        self.keys = keys
        super().__init__(object, name)

    def read(self) -> Mapping[Any, Any]:
        found = {}
        for key in self.keys():
            try:
                found[key] = getattr(self.object, key)
            except (AttributeError, ValueError):  # an empty slot, an empty cell
                continue
        return found

    def write(self, key: Any, value: Any) -> None:
        if value is MISSING:
            delattr(self.object, key)
        else:
            setattr(self.object, key, value)

    def label(self, key: Any) -> str:
        return self.name if key == "cell_contents" else f"{self.name}.{key}"


class Contents(Holder):
    """Something whose state is read and set as a whole: an array, a generator of random numbers."""

    def __init__(self, object: Any, name: str, get: Callable[[], Any], put: Callable[[Any], Any]) -> None:
        self.get, self.put = get, put
        super().__init__(object, name)

    def read(self) -> Mapping[Any, Any]:
        return {None: self.get()}

    def write(self, key: Any, value: Any) -> None:
        self.put(value)


class Globals(Entries):
    """The globals that a function assigns."""

    def __init__(self, object: dict[str, Any], names: frozenset[str]) -> None:
        self.names = names
        super().__init__(object, "global", attributes=True)

    def read(self) -> Mapping[Any, Any]:
        return {name: self.object[name] for name in self.names if name in self.object}

    def settle(self) -> None:
        """The order of a module's globals means nothing."""
