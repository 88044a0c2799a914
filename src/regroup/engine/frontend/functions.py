"""Which names a Python function reads and assigns, as its byte code says; functions in attributes."""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator
from functools import cached_property, lru_cache
from types import CodeType
from typing import Any

_ASSIGN = frozenset(dis.opmap[name] for name in ("STORE_GLOBAL", "DELETE_GLOBAL"))

_READ = frozenset(
    dis.opmap[name]
    for name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")  # the last one since Python 3.12
    if name in dis.opmap
)

_IMPORT = dis.opmap["IMPORT_NAME"]


@lru_cache(maxsize=10_000)
def names_of(code: CodeType) -> frozenset[str]:
    """Return every name that a function, or one inside it, looks up: globals and attributes."""
    return frozenset(name for one in _nested(code) for name in one.co_names)


attributes_of = names_of

CACHED = type(lru_cache(lambda: None))
"""What `functools.cache` and `lru_cache` make of a function."""

_BY_TEXT = frozenset(("getattr", "attrgetter", "methodcaller", "__getattribute__", "vars", "__dict__"))
"""What looks attributes up by a text."""

_PROBES = frozenset(("getattr", "hasattr"))
"""What asks whether there is an attribute, by a text."""


@lru_cache(maxsize=10_000)
def calls_by_text(code: CodeType) -> frozenset[str]:
    """Return texts in a function that looks attributes up by texts: of them names of methods may be made."""
    if not looks_up_by_text(code):
        return frozenset()
    return frozenset(text for text in _texts(code) if len(text) > 2)


def looks_up_by_text(code: CodeType) -> bool:
    """Tell whether a function looks attributes up by texts, which may be computed."""
    return not _BY_TEXT.isdisjoint(names_of(code))


@lru_cache(maxsize=10_000)
def probes_of(code: CodeType) -> frozenset[str]:
    """Return texts in a function that asks whether there are attributes: they may be their names."""
    return frozenset() if _PROBES.isdisjoint(names_of(code)) else frozenset(_texts(code))


@lru_cache(maxsize=10_000)
def stores_of(code: CodeType) -> frozenset[str]:
    """Return the globals that a function, or one inside it, assigns."""
    return frozenset(
        step.argval
        for one in _nested(code)
        if not _ASSIGN.isdisjoint(one.co_code[::2])
        for step in dis.get_instructions(one)
        if step.opcode in _ASSIGN
    )


@lru_cache(maxsize=10_000)
def loads_of(code: CodeType) -> frozenset[str]:
    """Return the globals that a function, or one inside it, reads."""
    steps = (step for one in _nested(code) for step in dis.get_instructions(one))
    return frozenset(step.argval for step in steps if step.opcode in _READ)


@lru_cache(maxsize=10_000)
def imports_of(code: CodeType) -> frozenset[str]:
    """Return the modules that a function, or one inside it, imports, as they are written."""
    steps = (step for one in _nested(code) for step in dis.get_instructions(one))
    return frozenset(step.argval for step in steps if step.opcode == _IMPORT)


def functions_in(value: Any) -> Iterator[Any]:
    """Yield the functions that a class's attribute is made of."""
    if isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (f for f in (value.fget, value.fset) if f is not None)
    elif isinstance(value, cached_property):
        yield value.func
    elif isinstance(value, (types.FunctionType, CACHED)):
        yield value


def is_data(name: str) -> bool:
    """Tell whether a name is one that users give, and not Python."""
    return not (name.startswith("__") and name.endswith("__")) and not name.startswith("_abc_")


def _texts(code: CodeType) -> Iterator[str]:
    constants = (constant for one in _nested(code) for constant in one.co_consts)
    return (constant for constant in constants if isinstance(constant, str) and constant.isidentifier())


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
