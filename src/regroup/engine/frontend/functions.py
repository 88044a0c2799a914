"""Which names a Python function reads and assigns, as its byte code says."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType

_ASSIGN = frozenset(dis.opmap[name] for name in ("STORE_GLOBAL", "DELETE_GLOBAL"))

_READ = frozenset(dis.opmap[name] for name in ("LOAD_GLOBAL", "LOAD_NAME"))


@lru_cache(maxsize=10_000)
def names_of(code: CodeType) -> frozenset[str]:
    """Return every name that a function, or one inside it, looks up: globals and attributes."""
    return frozenset(name for one in _nested(code) for name in one.co_names)


attributes_of = names_of

_BY_TEXT = frozenset(("getattr", "attrgetter", "methodcaller", "__getattribute__", "vars", "__dict__"))
"""What looks attributes up by a text."""


@lru_cache(maxsize=10_000)
def calls_by_text(code: CodeType) -> frozenset[str]:
    """Return texts in a function that looks attributes up by texts: of them names of methods may be made."""
    if _BY_TEXT.isdisjoint(names_of(code)):
        return frozenset()
    texts = (constant for one in _nested(code) for constant in one.co_consts)
    return frozenset(t for t in texts if isinstance(t, str) and t.isidentifier() and len(t) > 2)


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


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
