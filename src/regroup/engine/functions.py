"""Which names a Python function reads and assigns, as its byte code says."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType

_ASSIGN = frozenset(dis.opmap[name] for name in ("STORE_GLOBAL", "DELETE_GLOBAL"))


@lru_cache(maxsize=10_000)
def names_of(code: CodeType) -> frozenset[str]:
    """Return every name that a function, or one inside it, looks up: globals and attributes."""
    return frozenset(name for one in _nested(code) for name in one.co_names)


attributes_of = names_of


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


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
