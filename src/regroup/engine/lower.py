"""Graph -> tasks: which kernel problems do it, on which slabs. `schedule.py` makes steps of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import singledispatchmethod
from math import prod

import torch
from torch import Tensor

from regroup.engine.describe import describe_node
from regroup.engine.graph import (
    Activate,
    AdaptivePool,
    Conv,
    DynamicConv,
    Fused,
    Graph,
    Linear,
    Lrn,
    Node,
    Op,
    Pad,
    Pool,
    Resize,
    ScaleShift,
    Softmax,
    Value,
)
from regroup.engine.layout import is_alias, is_elementwise
from regroup.engine.places import Place, Slab
from regroup.engine.slots import Slots, slots_of
from regroup.engine.tasks import Task, Tasks, view_of
from regroup.kernels import problems as kernels
from regroup.kernels.problems import Problem, Prologue
from regroup.kernels.problems import dynamic as kernels_dynamic
from regroup.kernels.problems.dynamic import Largest
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.templates.base import LINE

_FAR = 8
"""Times a group's width: inputs of a group that lie that far apart are copied side by side."""

_MOST_RUNS = 8
"""A value in more pieces than this is brought together by a copy before a step that reads whole vectors."""


def lower(graph: Graph) -> list[Task]:
    """Return the tasks that compute `graph`, in order; its outputs go to buffers after the inputs."""
    lowering = _Lowering(graph)
    for value in lowering.layout.copied_inputs:
        lowering.copy_input(value)
    for node in graph.nodes:
        lowering.node(node)
    for position, value in enumerate(graph.outputs):
        lowering.write_output(value, 2 + len(graph.inputs) + position)
    return lowering.tasks


class _Lowering(Tasks):
    def node(self, node: Node) -> None:
        if is_alias(node.op):
            self.layout.place[node.output] = self.layout.alias(node)
            if self.layout.is_put_beside(node.output):
                self._put_home(node.output, "put beside")
            return
        fused = node.op if isinstance(node.op, Fused) else Fused(node.op)
        if is_elementwise(fused):
            self._elementwise(node, fused)
        else:
            self._lower(fused.op, node, fused)

    def copy_input(self, value: Value) -> None:
        """Bring an input from PyTorch's layout into the engine's."""
        self._put_home(value, "read")

    def _put_home(self, value: Value, word: str) -> None:
        source, place = self.layout.place[value], self.layout.home(value)
        self.add(
            f"{word} {value.name}",
            (source,),
            place,
            lambda: kernels.Pointwise(source.view(), place.view(), order=source.order),
        )
        self.layout.place[value] = place

    def write_output(self, value: Value, buffer: int) -> None:
        """Bring an output into PyTorch's layout."""
        source = self.layout.place[value]
        slab = Slab(source.slab.height, source.slab.width, len(source.channels), buffer=buffer)
        slab.planar = (slab.height, slab.width) != (1, 1) and not source.flat
        if source.flat:
            slab.height = slab.width = 1
        place = Place(slab, tuple(range(len(source.channels))))
        if self._write_directly(value, source, place):
            return
        self.add(
            f"write {value.name}",
            (source,),
            place,
            lambda: kernels.Pointwise(source.view(), place.view(), order=source.order),
        )

    def _write_directly(self, value: Value, source: Place, place: Place) -> bool:
        """Let a vector be written into the output instead of into the arena, if it is alone there."""
        slab = source.slab
        alone = slab.channels == len(source.channels) and source.is_in_order and slab.buffer == 0
        if place.slab.planar or source.flat or slab.halo or not alone:
            return False
        slab.buffer = place.slab.buffer
        return True

    # ---- steps ------------------------------------------------------------------------------------

    @singledispatchmethod
    def _lower(self, op: Op, node: Node, fused: Fused) -> None:
        raise NotImplementedError(type(op).__name__)

    @_lower.register
    def _(self, op: Conv, node: Node, fused: Fused) -> None:
        x, prologue, scales = self._prologue(fused.before, node)
        if not fused.before and _is_scattered(op, x):
            x = self.aligned(node.inputs[0], tuple(range(len(x.channels))), x.slab.halo)
        depthwise = op.groups == op.weight.shape[0] == node.inputs[0].shape[0]
        # channel by channel: the output follows the order that its input has in memory
        channels = x.physical if depthwise and x.is_one_run else self.layout.in_memory(node)
        order = None if depthwise and x.is_one_run else x.order
        y = self.settle(node, channels)
        work = slots_of(fused, node.inputs, node.output)
        epilogue, operands, over = self.epilogue(work, channels)
        rows = list(channels)
        numbers = {"weight": op.weight[rows], **scales, **_slopes(work, rows)}
        if op.bias is not None:
            numbers["bias"] = op.bias[rows]

        def problem() -> Problem:
            return kernels.Conv(
                x.view(),
                y.view(),
                prologue,
                epilogue(op.bias is not None),
                kernel_size=op.kernel_size,
                stride=op.stride,
                padding=(op.padding[0], op.padding[2]),
                dilation=op.dilation,
                groups=op.groups,
                order=order,
            )

        self.add(describe_node(node), (x, *operands), y, problem, numbers, node, over)

    @_lower.register
    def _(self, op: DynamicConv, node: Node, fused: Fused) -> None:
        image, saliency = node.inputs[:2]
        heads, channels = saliency.shape[0] // image.shape[0], tuple(range(op.weight.shape[0]))
        scores = self.aligned(saliency, tuple(range(saliency.shape[0])))
        choice = Place(Slab(1, 1, 2 * heads * op.kept), tuple(range(2 * heads * op.kept)))
        self.add("choose", (scores,), choice, lambda: Largest(scores.view(), choice.view(), heads), {}, node)
        x, y = self.layout.place[image], self.settle(node, channels)
        work = slots_of(fused, node.inputs, node.output)
        epilogue, operands, over = self.epilogue(work, channels)
        numbers = {"weight": op.weight, **_slopes(work, channels)}
        numbers |= {} if op.bias is None else {"bias": op.bias}

        def problem() -> Problem:
            return kernels_dynamic.DynamicConv(
                x.view(),
                y.view(),
                choice.view(),
                heads,
                op.kernel_size,
                op.stride,
                (op.padding[0], op.padding[2]),
                op.dilation,
                x.order,
                epilogue(op.bias is not None),
            )

        self.add(describe_node(node), (x, choice, *operands), y, problem, numbers, node, over)

    @_lower.register
    def _(self, op: Linear, node: Node, fused: Fused) -> None:
        x, prologue, scales = self._prologue(fused.before, node)
        channels = tuple(range(op.weight.shape[0]))
        y = self.settle(node, channels)
        work = slots_of(fused, node.inputs, node.output)
        epilogue, operands, over = self.epilogue(work, channels)
        numbers = {"weight": op.weight, **scales, **_slopes(work, channels)}
        numbers |= {} if op.bias is None else {"bias": op.bias}

        def problem() -> Problem:
            return kernels.Linear(x.view(), y.view(), prologue, epilogue(op.bias is not None), order=x.order)

        self.add(describe_node(node), (x, *operands), y, problem, numbers, node, over)

    @_lower.register
    def _(self, op: Pool, node: Node, fused: Fused) -> None:
        kind = "max" if op.kind == "max" else "average"
        activation = slots_of(fused, node.inputs, node.output).activation

        def problem(x: Place, y: Place) -> Problem:
            return kernels.Pool(
                x.view(),
                y.view(),
                kind=kind,
                kernel_size=op.kernel,
                stride=op.stride,
                padding=(op.padding[0], op.padding[2]),
                dilation=op.dilation,
                count_include_pad=op.count_padding,
                padded=(op.padding[1], op.padding[3]),
                divisor=op.divisor or 0,
                activation=activation,
            )

        self._by_channel(node, problem)

    @_lower.register
    def _(self, op: AdaptivePool, node: Node, fused: Fused) -> None:
        kind = "max" if op.kind == "max" else "average"
        self._by_channel(node, lambda x, y: kernels.AdaptivePool(x.view(), y.view(), kind=kind))

    @_lower.register
    def _(self, op: Resize, node: Node, fused: Fused) -> None:
        self._by_channel(
            node,
            lambda x, y: kernels.Resize(
                x.view(), y.view(), mode=op.mode, align_corners=op.align_corners, scale=op.scale
            ),
        )

    @_lower.register
    def _(self, op: Pad, node: Node, fused: Fused) -> None:
        channels = tuple(range(node.output.shape[0]))
        x, y = self.layout.place[node.inputs[0]], self.settle(node, channels)

        def problem() -> Problem:
            return kernels.Pointwise(x.view(), _inside(y.view(), op.padding), order=x.order)

        self.add(describe_node(node), (x,), y, problem, {}, node)

    @_lower.register
    def _(self, op: Lrn, node: Node, fused: Fused) -> None:
        channels = tuple(range(node.output.shape[0]))
        x, y = self.aligned(node.inputs[0], channels), self.settle(node, channels)

        def problem() -> Problem:
            return kernels.LocalResponseNorm(
                x.view(), y.view(), size=op.size, alpha=op.alpha, beta=op.beta, k=op.k
            )

        self.add(describe_node(node), (x,), y, problem, {}, node)

    @_lower.register
    def _(self, op: Softmax, node: Node, fused: Fused) -> None:
        channels = tuple(range(node.output.shape[0]))
        x, y = self.aligned(node.inputs[0], channels), self.settle(node, channels)
        self.add(describe_node(node), (x,), y, lambda: kernels.Softmax(x.view(), y.view()), {}, node)

    def _elementwise(self, node: Node, fused: Fused) -> None:
        x = self.layout.place[node.inputs[0]]
        channels = x.physical if x.is_one_run else tuple(range(len(x.channels)))
        order = None if x.is_one_run else x.order
        y = self.settle(node, channels)
        work = slots_of(fused, node.inputs, node.output)
        first_gate, factor = (self.operand(v, channels) for v in (work.first_gate, work.factor))
        epilogue, operands, alike = self.epilogue(work, channels)
        rows = list(channels)
        numbers = _slopes(work, rows) | ({} if work.affine is None else _scales(work.affine, rows))

        def problem() -> Problem:
            return kernels.Pointwise(
                x.view(),
                y.view(),
                Prologue(work.affine is not None, work.first, view_of(first_gate)),
                epilogue(False),
                order=order,
                factor=view_of(factor),
            )

        read = [p for p in (x, first_gate, factor, *operands) if p is not None]
        alike += [p for p in (x if order is None else None, factor) if p is not None]
        self.add(describe_node(node), read, y, problem, numbers, node, alike)

    def _by_channel(self, node: Node, problem: Callable[[Place, Place], Problem]) -> None:
        """Add work that treats each channel alone, on whole vectors: one task per range of channels."""
        x = self.layout.place[node.inputs[0]]
        if x.flat or len(x.runs()) > _MOST_RUNS or len(set(x.channels)) < len(x.channels):
            x = self.aligned(node.inputs[0], tuple(range(len(x.channels))))
        y = self.settle(node, x.physical)
        start = y.first
        for run in x.runs():
            part = Place(y.slab, tuple(range(start, start + len(run.channels))))
            start += len(run.channels)
            self.add(
                describe_node(node), (run,), part, lambda run=run, part=part: problem(run, part), {}, node
            )

    # ---- places -----------------------------------------------------------------------------------

    def _prologue(self, before: Sequence[Op], node: Node) -> tuple[Place, Prologue, dict[str, Tensor]]:
        """Return where the input lies, what is done to it first, and with which numbers.

        The numbers belong to channels in memory. An extra step does it where one channel is read as several,
        each with a scale of its own, and where weights are so many that they had better be read only once.
        """
        x = self.layout.place[node.inputs[0]]
        affine = next((op for op in before if isinstance(op, ScaleShift)), None)
        activation = next((op.kind for op in before if isinstance(op, Activate)), "none")
        if affine is None:
            return x, Prologue(False, activation), {}
        given = torch.stack([affine.scale, affine.shift]).double()
        stored = list(x.order or range(len(x.channels)))
        there = torch.zeros(2, max(stored) + 1, dtype=torch.float64)
        there[:, stored] = given
        prologue, order, alike = Prologue(True, activation), None, torch.equal(there[:, stored], given)
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


def _inside(view: View, padding: tuple[int, int, int, int]) -> View:
    """Return the image within a padded one; the zeros around it become its halo."""
    top, bottom, left, right = padding
    old = view.halo
    return replace(
        view,
        height=view.height - top - bottom,
        width=view.width - left - right,
        halo=Halo(old.top + top, old.left + left, old.bottom + bottom, old.right + right),
        offset=view.offset + top * view.row_pitch + left * view.pixel_pitch,
    )


def _weights_outweigh(node: Node) -> bool:
    """Tell whether a convolution has more weights than inputs."""
    op = node.op.op if isinstance(node.op, Fused) else node.op
    return isinstance(op, Conv) and op.weight.numel() > prod(node.inputs[0].shape)


def _is_scattered(op: Conv, x: Place) -> bool:
    """Tell whether the inputs of wide groups lie so far apart that copying them side by side pays.

    Else each is a cache line of its own, for every tap and every vector of outputs, and Winograd's way is
    closed.
    """
    outputs, each = op.weight.shape[0] // op.groups, op.weight.shape[1]
    if op.groups == 1 or min(outputs, each) < LINE or prod(op.kernel_size) == 1:
        return False
    groups = [x.channels[first : first + each] for first in range(0, len(x.channels), each)]
    return any(max(group) - min(group) >= _FAR * each for group in groups)


def _scales(op: ScaleShift, rows: list[int]) -> dict[str, Tensor]:
    return {"in_scale": op.scale[rows], "in_shift": op.shift[rows]}


def _slopes(work: Slots, rows: Sequence[int]) -> dict[str, Tensor]:
    return {} if work.slope is None else {"slope": work.slope[list(rows)]}
