"""Outputs that are written over an input that is not read any more: a residual, what an activation reads."""

from __future__ import annotations

from collections.abc import Sequence

from regroup.engine.placing.arena import Lifetime
from regroup.engine.placing.places import Place, Slab
from regroup.engine.placing.tasks import Task
from regroup.kernels.problems.view import ARENA


def written_over(lives: Sequence[Lifetime], steps: Sequence[Sequence[Task]]) -> list[Lifetime]:
    """Return the lifetimes, those of slabs that can lie one over the other as one."""
    life = {one.slab: one for one in lives}
    for step, tasks in enumerate(steps):
        for task in tasks:
            others = [p.slab for t in tasks if t is not task for p in (*t.reads, t.writes)]
            for place in task.over:
                if _fits(place, task) and task.writes.slab not in others and place.slab not in others:
                    old, new = life[place.slab], life[task.writes.slab]
                    if old.last == step == new.first:
                        old.last = new.last
                        old.followers += [new.slab, *new.followers]
                        life |= dict.fromkeys((new.slab, *new.followers), old)
                        break
    return list(dict.fromkeys(life.values()))


def _fits(place: Place, task: Task) -> bool:
    """Tell whether a task reads `place` once and as its output lies: all of a slab of the same kind."""
    old, new = place.slab, task.writes.slab
    once = [p.slab for p in task.reads].count(old) == 1
    return once and _shape(old) == _shape(new) and all(_is_whole(p) for p in (place, task.writes))


def _shape(slab: Slab) -> tuple[object, ...]:
    return (slab.height, slab.width, slab.channels, slab.halo, slab.buffer)


def _is_whole(place: Place) -> bool:
    return place.slab.buffer == ARENA and sorted(place.channels) == list(range(place.slab.channels))
