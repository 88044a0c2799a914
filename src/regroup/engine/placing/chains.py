"""Join steps whose intermediate result would not fit in the caches: band of rows by band of rows instead.

Such are the expanded tensor of an inverted residual (1x1 -> depthwise -> 1x1), a depthwise convolution and
the 1x1 after it, the stem and its pooling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from regroup.engine.placing.places import Slab
from regroup.engine.placing.tasks import Task
from regroup.kernels import templates
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Chain
from regroup.kernels.problems.view import ARENA
from regroup.kernels.program import Part, at_origin, why_not
from regroup.kernels.templates.chain import row_window

_SHARE = 0.03
"""Of a core's second-level cache: an intermediate result that takes more is not written out as a whole."""

_FAR = 2.0
"""Cycles for a float that is written out and read back."""

_ROWS = 14
"""Least rows of the result: with fewer, threads cannot share them evenly."""

_TWICE = 0.06
"""Of the result's rows: a chain does not pay where neighbouring threads both compute more than that."""


def chain(tasks: Sequence[Task], target: Target) -> list[Task]:
    """Return the tasks with every chain that pays as one task, where its last link was."""
    touched = Counter(place.slab for task in tasks for place in (*task.reads, task.writes))
    by_input = {task.reads[0].slab: task for task in tasks if task.reads}
    replaced: dict[int, Task] = {}
    inner: set[int] = set()
    for task in tasks:
        if id(task) in inner or id(task) in replaced:
            continue
        links = _links(task, by_input, touched)
        made = _joined(links, target) if any(_is_large(link, target) for link in links[:-1]) else None
        if made is not None:
            replaced[id(links[-1])] = made
            inner.update(map(id, links[:-1]))
    return [replaced.get(id(task), task) for task in tasks if id(task) not in inner]


def _links(first: Task, by_input: dict[Slab, Task], touched: Counter[Slab]) -> list[Task]:
    """Return the longest chain that may begin with `first`: each link's result is the next one's alone."""
    links = [first]
    for kinds in _PATTERNS:
        found = [first]
        while len(found) < len(kinds) and _kind(found[-1]) in kinds[len(found) - 1]:
            place = found[-1].writes
            following = by_input.get(place.slab)
            if following is None or touched[place.slab] != 2 or place.slab.buffer != ARENA:
                break
            if following.reads[0].flat or set(following.reads[0].channels) != set(place.channels):
                break
            found.append(following)
        complete = len(found) == len(kinds) and _kind(found[-1]) in kinds[-1]
        if complete and found[-1].writes.slab.height >= _ROWS:
            links = max(links, found, key=len)
    return links


def _kind(task: Task) -> str:
    return "other" if task.node is None else task.node.op.main.link


_PATTERNS = (
    (("dense",), ("pointwise",), ("depthwise",), ("pointwise",)),
    (("pointwise", "dense"), ("depthwise",), ("pointwise",)),
    (("pointwise", "dense"), ("depthwise",)),
    (("depthwise",), ("pointwise",)),
    (("dense",), ("pool",)),
)


def _is_large(task: Task, target: Target) -> bool:
    return 4 * task.writes.slab.view().floats > _SHARE * target.l2


def _joined(links: list[Task], target: Target) -> Task | None:
    """Return the chain as one task, or None if there is no kernel for it."""
    reads = [place for i, link in enumerate(links) for place in link.reads[min(i, 1) :]]
    if len(links) == 1 or _computes_twice(links):
        return None
    if why_not(_part(links).problem, target) is not None or _quicker_apart(links, target):
        return None
    return Task(
        " > ".join(link.name for link in links),
        tuple(reads),
        links[-1].writes,
        lambda: _part(links),
        links[-1].node,
        links[-1].over,
    )


def _computes_twice(links: list[Task]) -> bool:
    """Tell whether too many rows of what lies between are needed on both sides of a cut between threads."""
    shared = sum(row_window(link.part().problem).shared for link in links[1:])
    return shared > _TWICE * links[-1].writes.slab.height


def _quicker_apart(links: list[Task], target: Target) -> bool:
    """Tell whether a link's quickest kernel does not go by rows and saves more than memory costs."""
    together, *apart = (
        templates.choose(at_origin(problem), target).cycles
        for problem in (_part(links).problem, *(link.part().problem for link in links))
    )
    return together > sum(apart) + _FAR * sum(link.writes.slab.view().floats for link in links[:-1])


def _part(links: list[Task]) -> Part:
    parts = [link.part() for link in links]
    problems = tuple(part.problem for part in parts)
    numbers = {f"{i}.{name}": v for i, part in enumerate(parts) for name, v in part.parameters.items()}
    return Part(Chain(problems[0].x, problems[-1].y, problems), numbers)
