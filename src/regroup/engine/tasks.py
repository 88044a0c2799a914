"""Tasks: what kernels will do on which slabs, before these have a place in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from regroup.engine.graph import Graph, Node, Value
from regroup.engine.layout import Layout
from regroup.engine.places import NO_HALO, Place, Slab
from regroup.engine.slots import Slots
from regroup.kernels import problems as kernels
from regroup.kernels.problems import Epilogue, Problem
from regroup.kernels.problems.view import WEIGHTS, Halo, View
from regroup.kernels.program import Part


@dataclass(eq=False)
class Task:
    """One kernel problem, before its slabs have a place.

    Attributes:
        name: what it does, for people.
        reads: where its inputs lie.
        writes: where its output goes.
        part: makes the problem, once the slabs are placed.
        node: what of the graph it does; None for copies.
        over: inputs that it may write its output over: each of their numbers is read for that output number
            alone that takes its place.
    """

    name: str
    reads: tuple[Place, ...]
    writes: Place
    part: Callable[[], Part]
    node: Node | None = None
    over: tuple[Place, ...] = ()


class Tasks:
    """A list of tasks that grows, and where they leave the values of a graph.

    Attributes:
        layout: places of the values.
        tasks: in order.
    """

    def __init__(self, graph: Graph) -> None:
        self.layout = Layout(graph)
        self.tasks: list[Task] = []
        self._copies: dict[tuple[Value, tuple[int, ...], Halo], Place] = {}

    def settle(self, node: Node, channels: Sequence[int]) -> Place:
        """Place the output of `node`: in memory its channels follow one another as `channels` says."""
        home = self.layout.home(node.output)
        where = [0] * len(channels)
        for position, channel in enumerate(channels):
            where[channel] = home.channels[position]
        self.layout.place[node.output] = Place(home.slab, tuple(where))
        return home

    def aligned(self, value: Value, channels: tuple[int, ...], halo: Halo = NO_HALO) -> Place:
        """Return a place where `value` lies in the order of `channels`; copy if need be, zeros around it."""
        place = self.layout.place[value].select(channels)
        if place.is_in_order and not place.slab.planar:
            return place
        key = (value, channels, halo)
        if key not in self._copies:
            size = (1, 1) if place.flat else (place.slab.height, place.slab.width)
            slab = Slab(*size, len(channels), halo)
            copy = self._copies[key] = Place(slab, tuple(range(len(channels))))
            self.add(
                f"copy {value.name}",
                (place,),
                copy,
                lambda: kernels.Pointwise(place.view(), copy.view(), order=place.order),
            )
        return self._copies[key]

    def operand(self, value: Value | None, channels: tuple[int, ...]) -> Place | None:
        """Return where a second operand lies in the order of `channels`."""
        return None if value is None else self.aligned(value, channels)

    def epilogue(
        self, work: Slots, channels: tuple[int, ...]
    ) -> tuple[Callable[[bool], Epilogue], list[Place], list[Place]]:
        """Return what makes the epilogue once slabs are placed, what it reads, what it could overwrite."""
        residual, gate = self.operand(work.residual, channels), self.operand(work.gate, channels)

        def make(bias: bool) -> Epilogue:
            return Epilogue(
                bias,
                work.activation,
                view_of(residual),
                work.residual_first,
                work.residual_scale,
                view_of(gate),
                None if work.slope is None else View.vector(len(channels), buffer=WEIGHTS),
            )

        alike = [residual] if residual is not None and work.residual_scale == 1 else []
        return make, [p for p in (residual, gate) if p is not None], alike

    def add(
        self,
        name: str,
        reads: Sequence[Place],
        writes: Place,
        problem: Callable[[], Problem],
        numbers: dict[str, Tensor] | None = None,
        node: Node | None = None,
        over: Sequence[Place] = (),
    ) -> None:
        """Append a task; `numbers` are the problem's parameters."""
        arrays = {k: _array(v) for k, v in (numbers or {}).items()}
        self.tasks.append(
            Task(name, tuple(reads), writes, lambda: Part(problem(), arrays), node, tuple(over))
        )


def view_of(place: Place | None) -> View | None:
    """Return the view of a place, None of none."""
    return None if place is None else place.view()


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().float().numpy())
