"""Layers of many operators that who records them is to see as one: the engine has a kernel for that.

>>> is_one_operator()
False
>>> with as_one_operator():
...     is_one_operator()
True
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_AS_ONE_OPERATOR: ContextVar[bool] = ContextVar("as one operator", default=False)


@contextmanager
def as_one_operator() -> Iterator[None]:
    """Let layers call an operator of regroup's in this thread instead of what it is made of."""
    token = _AS_ONE_OPERATOR.set(True)
    try:
        yield
    finally:
        _AS_ONE_OPERATOR.reset(token)


def is_one_operator() -> bool:
    """Tell whether a layer is to be one operator."""
    return _AS_ONE_OPERATOR.get()
