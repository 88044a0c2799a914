"""Fetch the next steps' weights while this one computes: memory is far, and the sums leave it idle.

Each thread has a cursor, two addresses that lie before its scratch memory: what to fetch next, and where to
stop; after them stands whether its last call was of the items before these. The runner sets it at each step;
kernels with long sums move it on by a few cache lines now and then.
"""

from __future__ import annotations

from collections.abc import Sequence

from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.words import word
from regroup.kernels.templates.base import LINE, Kernel

CURSOR = LINE
"""Floats that the cursor takes."""

_LINES = 12
"""Cache lines at a time: about as many as a core can wait for at once."""

MOST = 96 << 10
"""Floats that are fetched for a step at most (384 KiB), so that they do not drive out what is in use."""

_LEAST = 4 << 10
"""Floats: fewer weights than this are not worth a cursor."""


def fetch_ahead(code: Code) -> None:
    """Write the fetching of some cache lines; few instructions, none of which waits for memory."""
    code.note("fetch weights of the next step")
    cursor = code.arguments[3] - CURSOR
    at, end = (code.load_pointer(cursor, i, name) for i, name in enumerate(("at", "end")))
    for _ in code.when(code.emit("i1", f"icmp ult ptr {at}, {end}")):
        for i in range(_LINES):
            code.prefetch(at, i * LINE)
        code.store_pointer(at + _LINES * LINE, cursor, 0)


def goes_on(code: Code) -> Value:
    """Return whether this thread's last call ended where this one begins, and left the scratch memory so."""
    return word(code, code.arguments[3] - CURSOR, 2)


def plan(steps: Sequence[Sequence[Kernel]], starts: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return what to fetch during each step: first float of the weights, how many, 1 if threads share them.

    That is the next step that has weights worth it; after the last comes the first, of the next image.

    Args:
        steps: the kernels of each.
        starts: where the weights of each kernel begin.
    """
    wanted = [_wanted(*step) for step in zip(steps, starts, strict=True)]
    found, following = [], (0, 0, 0)
    for mine in reversed([*wanted, *wanted]):
        found.append(following)
        following = mine if mine[1] >= _LEAST else following
    return found[::-1][: len(steps)]


def _wanted(kernels: Sequence[Kernel], starts: Sequence[int]) -> tuple[int, int, int]:
    packed = [(start, kernel) for start, kernel in zip(starts, kernels, strict=True) if kernel.packed]
    if not packed:
        return (0, 0, 0)
    (first, _), (last, kernel) = packed[0], packed[-1]
    return (first, last + kernel.packed - kernel.rare - first, int(len(packed) == 1 and kernel.by_weights))
