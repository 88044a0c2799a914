"""Tasks -> steps -> one native program: what runs at the same time, and where everything lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from regroup.engine.graph import Graph, Node, Torch
from regroup.engine.placing.arena import Lifetime, place_slabs
from regroup.engine.placing.chains import chain
from regroup.engine.placing.inplace import written_over
from regroup.engine.placing.lower import lower
from regroup.engine.placing.partition import Segment, partition
from regroup.engine.placing.places import Place, Slab
from regroup.engine.placing.tasks import Task
from regroup.kernels import program as programs
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.view import ARENA
from regroup.kernels.program import Program, Step


@dataclass(frozen=True, eq=False)
class Schedule:
    """A graph as steps of kernel problems.

    Attributes:
        steps: in order; all tasks of a step may run at once.
        arena_floats: memory for one image.
        tasks: of each step, beside its parts.
        target: the CPU that it is for.
    """

    steps: tuple[Step, ...]
    arena_floats: int
    tasks: tuple[tuple[Task, ...], ...]
    target: Target

    def unsupported(self) -> dict[Node, str]:
        """Return the nodes that no kernel covers, with the reason."""
        found = {}
        for step, tasks in zip(self.steps, self.tasks, strict=True):
            for part, task in zip(step.parts, tasks, strict=True):
                reason = programs.why_not(part.problem, self.target)
                if reason is not None and task.node is not None:
                    found[task.node] = reason
        return found

    def build(self, progress: Callable[[int, int], None] | None = None) -> Program:
        """Generate and compile the code."""
        return programs.build(self.steps, self.target, arena_floats=self.arena_floats, progress=progress)


def schedule(graph: Graph, target: Target | None = None) -> Schedule:
    """Return the steps that compute `graph` for one image, on this CPU if no other is given."""
    target = target or Target.host()
    groups = _concurrent(chain(lower(graph, target), target))
    size = place_slabs(written_over(_lifetimes(groups), groups))
    steps = tuple(Step(_name(group), tuple(task.part() for task in group)) for group in groups)
    return Schedule(steps, size, tuple(map(tuple, groups)), target)


def divide(
    graph: Graph, target: Target | None = None
) -> tuple[list[tuple[Segment, Schedule | None]], dict[Node, str]]:
    """Return the segments of `graph` with the schedules of native ones, and why nodes are left to PyTorch."""
    reasons = {node: node.op.why for node in graph.nodes if isinstance(node.op, Torch)}
    while True:
        parts = partition(graph, lambda node: node not in reasons)
        schedules = [schedule(part.graph, target) if part.native else None for part in parts]
        missing = {n: why for s in schedules if s is not None for n, why in s.unsupported().items()}
        if not missing:
            return list(zip(parts, schedules, strict=True)), reasons
        reasons.update(missing)


def _concurrent(tasks: list[Task]) -> list[list[Task]]:
    """Put each task into the earliest step after all that it depends on."""
    groups: list[list[Task]] = []
    touched: dict[Slab, list[tuple[int, Task]]] = {}
    for task in tasks:
        slabs = {place.slab for place in (*task.reads, task.writes)}
        others = [entry for slab in slabs for entry in touched.get(slab, ())]
        step = 1 + max((at for at, other in others if _conflict(other, task)), default=-1)
        if step == len(groups):
            groups.append([])
        groups[step].append(task)
        for slab in slabs:
            touched.setdefault(slab, []).append((step, task))
    return groups


def _conflict(earlier: Task, later: Task) -> bool:
    return (
        any(_overlap(earlier.writes, place) for place in (*later.reads, later.writes))
        or any(_overlap(place, later.writes) for place in earlier.reads)
    )  # fmt: skip


def _overlap(a: Place, b: Place) -> bool:
    if a.slab is not b.slab:
        return False
    return a.flat or b.flat or not set(a.channels).isdisjoint(b.channels)


def _lifetimes(groups: list[list[Task]]) -> list[Lifetime]:
    lives: dict[Slab, Lifetime] = {}
    for step, group in enumerate(groups):
        for task in group:
            for place in (*task.reads, task.writes):
                if place.slab.buffer == ARENA:
                    life = lives.setdefault(place.slab, Lifetime(place.slab, step, step))
                    life.last = step
    return list(lives.values())


def _name(group: list[Task]) -> str:
    return " | ".join(dict.fromkeys(task.name for task in group))
