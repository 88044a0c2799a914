"""Give slabs places in one arena: two may overlap unless both are alive during some step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from regroup.engine.placing.places import Slab
from regroup.kernels.templates.base import whole_lines


@dataclass(eq=False)
class Lifetime:
    """The steps, first to last, during which a slab holds something, and then those written over it."""

    slab: Slab
    first: int
    last: int
    followers: list[Slab] = field(default_factory=list)


def place_slabs(lifetimes: Sequence[Lifetime]) -> int:
    """Set `start` of every slab; return how many floats the arena needs.

    One after the other, each at the lowest start where nothing that lives at the same time is in the way; of
    some orders, the one that needs least.

    >>> a, b, c = (Slab(1, 1, n) for n in (100, 50, 60))
    >>> place_slabs([Lifetime(a, 0, 1), Lifetime(b, 1, 2), Lifetime(c, 2, 3)])
    176
    >>> a.start, b.start, c.start
    (0, 112, 0)
    """
    sizes = {life: whole_lines(life.slab.view().floats) for life in lifetimes}
    orders: tuple[Callable[[Lifetime], float], ...] = (
        lambda life: -sizes[life],
        lambda life: -sizes[life] * (1 + life.last - life.first),
        lambda life: life.first - life.last,
        lambda life: life.first,
    )
    found = [_placed(sorted(sizes, key=order), sizes) for order in orders]
    total, starts = min(found, key=lambda one: one[0])
    for life, start in starts.items():
        for slab in (life.slab, *life.followers):
            slab.start = start
    return total


def _placed(order: Sequence[Lifetime], sizes: dict[Lifetime, int]) -> tuple[int, dict[Lifetime, int]]:
    """Return the floats that an order of placing needs, and where each slab starts."""
    starts: dict[Lifetime, int] = {}
    for life in order:
        start = 0
        for other, low in sorted(starts.items(), key=lambda placed: placed[1]):
            if other.last < life.first or life.last < other.first:
                continue
            if start + sizes[life] <= low:
                break
            start = max(start, low + sizes[other])
        starts[life] = start
    return max((start + sizes[life] for life, start in starts.items()), default=0), starts
