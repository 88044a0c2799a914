"""Tasks: what kernels will do on which slabs, before these have a place in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regroup.engine.graph import Graph, Node, Value
from regroup.engine.placing.layout import Layout
from regroup.engine.placing.places import NO_HALO, Place, Slab
from regroup.engine.placing.slots import Slots, before_slots
from regroup.kernels import problems as kernels
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Epilogue, Problem, Prologue
from regroup.kernels.problems.view import WEIGHTS, Halo, View
from regroup.kernels.program import Part

_MOST_RUNS = 8
"""A value in more pieces than this is brought together by a copy before a step that reads whole vectors."""


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
        done: the tasks, in order.
    """

    def __init__(self, graph: Graph, target: Target) -> None:
        self.layout = Layout(graph, target)
        self.done: list[Task] = []
        self._copies: dict[tuple[Any, ...], Place] = {}

    def place(self, value: Value) -> Place:
        """Return where a value lies."""
        return self.layout.place[value]

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
        place = self.place(value).select(channels)
        if place.is_in_order and not place.slab.planar:
            return place
        return self.made((value, channels, halo), lambda: self._copy(value.name, place, halo))

    def _copy(self, name: str, place: Place, halo: Halo) -> Place:
        """Append a copy of what lies at `place`, its channels in order."""
        size, count = (1, 1) if place.flat else (place.slab.height, place.slab.width), len(place.channels)
        copy = Place(Slab(*size, count, halo), tuple(range(count)))
        self.add(
            f"copy {name}",
            (place,),
            copy,
            lambda: kernels.Pointwise(place.view(), copy.view(), order=place.order),
        )
        return copy

    def made(self, key: tuple[Any, ...], make: Callable[[], Place]) -> Place:
        """Return where something lies that several steps may read; `make` appends it for the first one."""
        if key not in self._copies:
            self._copies[key] = make()
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
        numbers: Mapping[str, Tensor | None] | None = None,
        node: Node | None = None,
        over: Sequence[Place] = (),
    ) -> None:
        """Append a task; `numbers` are the problem's parameters, None for those that it has not."""
        arrays = {k: _array(v) for k, v in (numbers or {}).items() if v is not None}
        self.done.append(Task(name, tuple(reads), writes, lambda: Part(problem(), arrays), node, tuple(over)))

    def by_channel(self, node: Node, problem: Callable[[Place, Place], Problem]) -> None:
        """Append work that treats each channel alone, on whole vectors: one task per range of channels."""
        x = self.place(node.inputs[0])
        if x.flat or len(x.runs()) > _MOST_RUNS or len(set(x.channels)) < len(x.channels):
            x = self.aligned(node.inputs[0], tuple(range(len(x.channels))))
        y = self.settle(node, x.physical)
        start = y.first
        for run in x.runs():
            part = Place(y.slab, tuple(range(start, start + len(run.channels))))
            start += len(run.channels)
            self.add(node.op.word, (run,), part, lambda run=run, part=part: problem(run, part), {}, node)

    def in_order(self, node: Node, problem: Callable[[Place, Place], Problem]) -> None:
        """Append work on the channels in their order, from the first input to the output."""
        channels = tuple(range(node.output.shape[0]))
        x, y = self.aligned(node.inputs[0], channels), self.settle(node, channels)
        self.add(node.op.word, (x,), y, lambda: problem(x, y), {}, node)

    def prologue(self, node: Node) -> tuple[Place, Prologue, dict[str, Tensor]]:
        """Return where the input of `node` lies, what is done to it first, and with which numbers.

        The numbers belong to channels in memory. An extra step does it where one channel is read as several,
        each with a scale of its own, and where weights are so many that they had better be read only once.
        """
        x = self.place(node.inputs[0])
        work = before_slots(node.op.before, node.inputs[0])
        if work.affine is None:
            return x, Prologue(False, work.first), {}
        given = torch.stack([work.affine.scale, work.affine.shift]).double()
        stored = list(x.order or range(len(x.channels)))
        there = torch.zeros(2, max(stored) + 1, dtype=torch.float64)
        there[:, stored] = given
        prologue, order, alike = Prologue(True, work.first), None, torch.equal(there[:, stored], given)
        if alike and not _weights_outweigh(node):
            return x, prologue, {"in_scale": there[0], "in_shift": there[1]}
        if not alike:
            there, stored, order = given, [*range(len(stored))], x.order
        apart = Slab(x.slab.height, x.slab.width, max(stored) + 1, x.slab.halo)
        written = Place(apart, tuple(range(apart.channels)))
        self.add(
            "norm apart",
            (x,),
            written,
            lambda: kernels.Pointwise(x.view(), written.view(), prologue, order=order),
            {"in_scale": there[0], "in_shift": there[1]},
            node,
        )
        return Place(apart, tuple(stored)), Prologue(), {}


def view_of(place: Place | None) -> View | None:
    """Return the view of a place, None of none."""
    return None if place is None else place.view()


def _weights_outweigh(node: Node) -> bool:
    """Tell whether a convolution has more weights than inputs."""
    weight = node.op.main.weight
    return weight.dim() > 2 and weight.numel() > prod(node.inputs[0].shape)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().float().numpy())
