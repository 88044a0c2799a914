"""Who computes the passes of a convolution: a table of backends, and the choice of the quickest.

>>> list(backends())
['llvm', 'aten', 'reference']
>>> call = Call((1, 8, 9, 9), (8, 1, 5, 5), (1, 1), (2, 2), (1, 1), 8)
>>> quickest("weight_gradient", call).name
'llvm'
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from regroup.errors import ParameterError
from regroup.ops.aten import Aten
from regroup.ops.passes import Backend, Call, Pass, Reference


@functools.cache
def backends() -> dict[str, Backend]:
    """Return all backends by name, in the order in which they are shown: of equally quick ones the first."""
    from regroup.ops.native import Native  # code generators are loaded when something is computed

    return {backend.name: backend for backend in (Native(), Aten(), Reference())}


@functools.lru_cache(maxsize=4096)
def quickest(which: Pass, call: Call) -> Backend:
    """Return who is expected to compute a pass in the least time, of those who can."""
    able = [backend for backend in backends().values() if backend.why_not(which, call) is None]
    return min(able, key=lambda backend: backend.expected(which, call))


_chosen: ContextVar[str | None] = ContextVar("regroup_backend", default=None)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Let the backend called `name` compute every pass inside of the `with`.

    Raises:
        ParameterError: there is none of that name; inside, when it cannot compute something.
    """
    if name not in backends():
        raise ParameterError("backend", name, f"one of {', '.join(backends())}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def choose(which: Pass, call: Call) -> Backend:
    """Return who computes a pass.

    Raises:
        ParameterError: the backend that was asked for cannot.
    """
    name = _chosen.get()
    if name is None:
        return quickest(which, call)
    reason = backends()[name].why_not(which, call)
    if reason:
        raise ParameterError("backend", name, "one that can compute this", reason)
    return backends()[name]
