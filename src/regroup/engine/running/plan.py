"""A model, prepared: the segments of its graph, each a native program or operators of PyTorch."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regroup.engine.frontend.capture import Capture
from regroup.engine.graph import Graph, Node, Value
from regroup.engine.passes import Change, optimise
from regroup.engine.placing.schedule import Schedule, divide
from regroup.engine.running.parts import Parts
from regroup.kernels.machine.threads import say_one_thread, torch_threads, within_fork
from regroup.kernels.program import Call, Program

_SHARED_WEIGHTS = 8 << 20
"""Floats: networks with more weights than this (32 MiB) share each image among the threads of a batch.

With fewer, each thread takes whole images and waits for no other; the weights come from the shared cache.
"""


ALL = "all of the network runs in PyTorch"

_MOST_REASONS = 3
"""Named in a warning."""

_MOST_ARENAS = 2 * (os.cpu_count() or 1)
"""Kept for calls to come; more calls than this at the same time take and return memory."""


class NativeSegment:
    """A part of the network as one native function.

    Attributes:
        inputs: values that it reads.
        outputs: values that it makes.
        work: for each step, what each of its parts does: words and problem.
        program: the code, with weights.
        arena_floats: memory for one image.
    """

    def __init__(self, graph: Graph, steps: Schedule, program: Program) -> None:
        self.inputs, self.outputs = tuple(graph.inputs), tuple(graph.outputs)
        self.work = tuple(
            tuple((task.name, part.problem) for task, part in zip(tasks, step.parts, strict=True))
            for tasks, step in zip(steps.tasks, steps.steps, strict=True)
        )
        self.program, self.arena_floats = program, steps.arena_floats
        self._strides = [math.prod(value.shape) for value in (*self.inputs, *self.outputs)]
        self._is_small = program.weights.size <= _SHARED_WEIGHTS
        self._calls: dict[tuple[int, bool], list[_Call]] = {}

    def run(self, inputs: Sequence[Tensor], threads: int | None = None) -> list[Tensor]:
        """Compute the outputs, in fresh tensors; each call has an arena of its own."""
        images = inputs[0].shape[0]
        inputs = [x.resolve_neg().contiguous() for x in inputs]
        plain = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are now
        outputs = [torch.empty(images, *value.shape, **plain) for value in self.outputs]
        if images == 0:
            return outputs
        # OpenMP's threads would end and begin where their number is not as before
        ours, threads = threads is not None and threads != torch_threads(), how_many(threads)
        key = threads, images >= threads > 1 and self._is_small
        waiting = self._calls.get(key)
        if waiting is None:  # other numbers of threads than before: their memory is given back
            self._calls = {k: v for k, v in self._calls.items() if k[0] == threads}
            waiting = self._calls.setdefault(key, [])
        try:
            call = waiting.pop()
        except IndexError:  # as many calls at a time as never before
            call = _Call(self.program, *key, self._strides)
        call.run(images, [x.data_ptr() for x in (*inputs, *outputs)], ours=ours)
        if len(waiting) < _MOST_ARENAS:
            waiting.append(call)
        return outputs

    def step_timer(self, inputs: Sequence[Tensor], threads: int) -> Callable[[int, int], None]:
        """Return what runs steps `first` to `last` (exclusive) on one image, for `explain`."""
        arena = self.program.new_arena(threads)
        arena[:] = 0
        outputs = [torch.zeros(1, *value.shape) for value in self.outputs]
        buffers = [arena.ctypes.data, *(t.data_ptr() for t in (*inputs, *outputs))]

        calls: dict[tuple[int, int], Call] = {}  # to prepare one takes longer than many a step

        def run(first: int, last: int, _alive: object = (arena, inputs, outputs)) -> None:
            call = calls.get((first, last))
            if call is None:
                call = Call(self.program, buffers[0], threads, False, self._strides, (first, last))
                calls[first, last] = call
            call(1, buffers[1:])

        return run


class _Call:
    """A prepared call and its arena."""

    def __init__(self, program: Program, threads: int, apart: bool, strides: list[int]) -> None:
        self._arena = program.new_arena(threads, apart)
        self.run = Call(program, self._arena.ctypes.data, threads, apart, strides)


def how_many(threads: int | None) -> int:
    """Return how many threads to use: `threads`, or as many as PyTorch does."""
    return torch_threads() if threads is None else threads


@dataclass(eq=False)
class TorchSegment:
    """Nodes that PyTorch runs, with the reason for each."""

    graph: Graph
    reasons: dict[Node, str]

    @property
    def inputs(self) -> list[Value]:
        """Values that it reads."""
        return self.graph.inputs

    @property
    def outputs(self) -> list[Value]:
        """Values that it makes."""
        return self.graph.outputs

    def run(self, inputs: Sequence[Tensor], threads: int | None = None) -> list[Tensor]:
        """Compute the outputs operator by operator, on as many threads as PyTorch is set to."""
        say_one_thread()
        return self.graph.evaluate(inputs)


def _in_float32() -> AbstractContextManager[object]:
    """Return a context in which PyTorch computes as native code does, whatever the caller's autocast says."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def _nothing(inputs: Sequence[Tensor], threads: int | None) -> None:
    raise AssertionError("a plan without segments has a model to fall back to")


@dataclass(eq=False)
class Plan:
    """A prepared model.

    Attributes:
        batch: the batch size at which it was recorded.
        segments: in order; empty when all is left to PyTorch.
        capture: what was recorded; its graph has only inputs and outputs left.
        changes: what each pass did to its graph.
        fallback: what runs the model when it is no graph: called with its inputs, and threads of native code.
        parts: its modules that run natively all the same, if there may be any.
        why: the reason why it is no graph.
        stateful: the reason is that the model changes what it holds, or draws random numbers.
        batch_sizes: those that it is known to be right for.
        macs: multiply-adds at that batch size.
        native_macs: those of them that run as native code.
        complaint: what to tell the user where most of the network is left to PyTorch.
    """

    batch: int
    segments: list[NativeSegment | TorchSegment] = field(default_factory=list)
    capture: Capture | None = None
    changes: Sequence[Change] = ()
    fallback: Callable[[Sequence[Tensor], int | None], Any] = _nothing
    parts: Parts | None = None
    why: str = ""
    stateful: bool = False
    batch_sizes: list[int] = field(default_factory=list)
    macs: int = 0
    native_macs: int = 0
    complaint: str = ""

    @property
    def summary(self) -> str:
        """How much of it runs where, in a line."""
        if self.capture is None:
            found = [] if self.parts is None else self.parts.native
            those = f"{len(found)} modules of it are native" if found else "all of it runs in PyTorch"
            return f"{those}: {self.why}"
        native = sum(len(s.work) for s in self.segments if isinstance(s, NativeSegment))
        left = sum(len(s.reasons) for s in self.segments if isinstance(s, TorchSegment))
        rest = f", {left} operators in PyTorch in between: see explain()" if left else ""
        return f"{native} native steps{rest}"

    @property
    def warning(self) -> str:
        """What to tell the user if most of the network, as far as it is known, is left to PyTorch."""
        share = None if self.parts is None else self.parts.share
        if share is None:
            return self.complaint
        if share > 0.5:
            return ""
        some = f"{_only(share)}, for it cannot be recorded as a whole: {self.why}"
        return some if share else f"{ALL}: {self.why}"

    def run(self, inputs: Sequence[Tensor], threads: int | None = None) -> Any:
        """Return what the model returns; native code runs on `threads`, or on as many as PyTorch does."""
        with torch.no_grad(), within_fork(), _in_float32():
            if self.capture is None:
                say_one_thread()
                return self.fallback(inputs, threads)
            env: dict[Value, Tensor] = dict(zip(self.capture.graph.inputs, inputs, strict=True))
            for segment in self.segments:
                results = segment.run([env[value] for value in segment.inputs], threads)
                env.update(zip(segment.outputs, results, strict=True))
            outputs = [env[value] for value in self.capture.graph.outputs]
            return self.capture.results.put_together(outputs, inputs)


def build_plan(recorded: Capture, batch: int, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Optimise, partition, schedule and compile what `record` returned."""
    changes = optimise(recorded.graph)
    parts, reasons = divide(recorded.graph)
    segments: list[NativeSegment | TorchSegment] = []
    for part, steps in parts:
        if steps is None:
            own = {node: reasons[node] for node in part.graph.nodes}
            segments.append(TorchSegment(part.graph, own))
        else:
            segments.append(NativeSegment(part.graph, steps, steps.build(progress)))
    macs = sum(recorded.macs.values())
    native = macs - sum(recorded.macs.get(node, 0) for node in reasons)
    plan = Plan(batch, segments, recorded, changes, macs=macs, native_macs=native)
    plan.complaint = _complaint(recorded, reasons)
    # with the nodes go the weights, which the programs have in their own order
    recorded.graph.nodes, recorded.macs = [], {}
    return plan


def _only(share: float) -> str:
    return f"only {share:.0%} of the network's multiply-adds run as native code"


def _complaint(recorded: Capture, reasons: dict[Node, str]) -> str:
    """Return what to tell the user if less than half of the multiply-adds run as native code."""
    total, left = sum(recorded.macs.values()), Counter[str]()
    for node, why in reasons.items():
        left[why] += recorded.macs.get(node, 0)
    if 2 * left.total() <= total:
        return ""
    worst = "; ".join(f"{macs / total:.0%}: {why}" for why, macs in left.most_common(_MOST_REASONS) if macs)
    return f"{_only(1 - left.total() / total)}; PyTorch does {worst}: see explain()"
