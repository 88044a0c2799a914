"""Give slabs places in one arena: two may overlap unless both are alive during some step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from regroup.engine.places import Slab
from regroup.kernels.templates.base import whole_lines


@dataclass
class Lifetime:
    """The steps, first to last, during which a slab holds something."""

    slab: Slab
    first: int
    last: int


def place_slabs(lifetimes: Iterable[Lifetime]) -> int:
    """Set `start` of every slab; return how many floats the arena needs.

    The largest first, each at the lowest start where nothing that lives at the same time is in the way.

    >>> a, b, c = (Slab(1, 1, n) for n in (100, 50, 60))
    >>> place_slabs([Lifetime(a, 0, 1), Lifetime(b, 1, 2), Lifetime(c, 2, 3)])
    176
    >>> a.start, b.start, c.start
    (0, 112, 0)
    """
    placed: list[tuple[int, int, Lifetime]] = []
    total = 0
    for life in sorted(lifetimes, key=lambda life: -life.slab.view().floats):
        size = whole_lines(life.slab.view().floats)
        start = 0
        for low, high, other in sorted(placed, key=lambda p: p[0]):
            if other.last < life.first or life.last < other.first:
                continue
            if start + size <= low:
                break
            start = max(start, high)
        life.slab.start = start
        placed.append((start, start + size, life))
        total = max(total, start + size)
    return total
