"""Kernels -> one native function for a whole network: one parallel region, a barrier after each step.

program = build([Step("conv1", (Part(conv, {"weight": w, "bias": b}),)), ...])
arena = program.new_arena(threads=2)
program.run([arena.ctypes.data, x.data_ptr(), y.data_ptr()], threads=2)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from regroup.files.cache import Cache
from regroup.kernels import jit, templates
from regroup.kernels.call import Call
from regroup.kernels.fused import Epilogue, Prologue
from regroup.kernels.problem import Chain, Problem
from regroup.kernels.region import Region
from regroup.kernels.runner import table_words
from regroup.kernels.target import Target
from regroup.kernels.templates import fetch
from regroup.kernels.templates.base import LINE, Kernel, whole_lines
from regroup.kernels.templates.fetch import CURSOR
from regroup.kernels.templates.halo import Zeros
from regroup.kernels.view import ARENA, WEIGHTS, View


@dataclass(frozen=True)
class Part:
    """One problem and the numbers it needs, by the names and shapes of `problem.parameters`."""

    problem: Problem
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Parts that do not depend on each other: they run between two barriers, all threads on each.

    The halo of every output is zeroed in the same step.
    """

    name: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Choice:
    """How a part is done: for people who read `explain()`."""

    template: str
    tile: str
    items: int


class Program:
    """A network's native code with its packed weights; immutable, so any number of threads may run it.

    Attributes:
        choices: per step, how each part is done.
        arena_floats: floats of one arena (see `new_arena`).
        layout: all that does not depend on the weights.
        weights: the packed weights.
    """

    def __init__(self, layout: Layout, weights: np.ndarray) -> None:
        self.layout, self.weights = layout, weights
        self.arena_floats = layout.arena_floats
        self.choices = tuple(
            tuple(Choice(k.template, k.tile, k.items) for k in kernels if not isinstance(k.problem, Zeros))
            for kernels in layout.kernels
        )

    def floats(self, threads: int, image_per_thread: bool = False) -> int:
        """Return the size of the first buffer of `run`, in floats: arenas, then threads' scratch memory."""
        arenas = threads if image_per_thread else 1
        return arenas * self.layout.arena_floats + threads * self.layout.scratch_floats

    def new_arena(self, threads: int, image_per_thread: bool = False) -> np.ndarray:
        """Return a buffer of `floats(...)` floats, aligned to 64 bytes; its content does not matter."""
        return aligned(self.floats(threads, image_per_thread))

    def run(
        self,
        buffers: Sequence[int],
        *,
        threads: int,
        images: int = 1,
        strides: Sequence[int] = (),
        image_per_thread: bool = False,
        steps: tuple[int, int] | None = None,
    ) -> None:
        """Run steps on images, one image after the other, or one per thread at a time.

        Args:
            buffers: addresses of the arena, then of the network's inputs and outputs: buffers 0, 2, 3, ...
                of the views. The arena is `new_arena(threads, image_per_thread)` and belongs to this call.
            threads: how many threads to use at most.
            images: batch size.
            strides: floats from one image to the next, for each of `buffers` but the arena.
            image_per_thread: each thread does whole images in an arena of its own, without barriers,
                instead of all threads sharing each step.
            steps: a range of steps to run instead of all; for timing.

        Raises:
            EngineError: the buffers are not those that the views name.
        """
        call = Call(self, buffers[0], threads, image_per_thread, strides or [0] * (len(buffers) - 1), steps)
        call(images, buffers[1:])

    def pack(self, steps: Sequence[Step]) -> Program:
        """Return a program of the same code with the parameters of `steps` (same problems) in it."""
        return Program(self.layout, _pack(self.layout, steps))


def build(
    steps: Sequence[Step],
    target: Target | None = None,
    *,
    arena_floats: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Program:
    """Choose a template for every part, generate, compile (or take from the cache) and pack.

    Args:
        steps: what to do, in order.
        target: the CPU, this one by default; it must be one that this machine can run.
        arena_floats: size of one thread's arena; the views' extent by default.
        progress: called with (kernels done, kernels in all).

    Raises:
        KernelError: a problem that no template covers; ask `why_not` first.
    """
    layout = Layout(steps, target or Target.host(), arena_floats, progress)
    return Program(layout, _pack(layout, steps))


def why_not(problem: Problem, target: Target | None = None) -> str | None:
    """Return why no template does `problem`, or None if one does."""
    try:
        _kernel(at_origin(problem), target or Target.host())
    except templates.KernelError as error:
        return str(error)
    return None


def aligned(floats: int) -> np.ndarray:
    """Return float32 memory that starts at a multiple of 64 bytes."""
    raw = np.empty(floats + LINE, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    return raw[start : start + floats]


class Layout:
    """All of a program but its weights: kernels, where they lie, and the tables that the runner reads."""

    def __init__(
        self,
        steps: Sequence[Step],
        target: Target,
        arena_floats: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.problems = [[part.problem for part in step.parts] for step in steps]
        chosen = _Chosen(target)
        self.kernels = [[chosen[p] for p in [*problems, *_halos(problems)]] for problems in self.problems]
        names = {kernel: _symbol(kernel) for kernel in chosen.kernels}
        objects = list(_objects(names, target, progress))
        self.loaded = jit.load(objects)
        self.region = Region.of(target)
        self._tables(names)
        views = [v for problems in self.problems for p in problems for v in p.views if v.buffer == ARENA]
        extent = max((v.offset + v.last + 1 for v in views), default=0)
        self.arena_floats = whole_lines(max(arena_floats, extent))
        scratch = max((k.scratch for ks in self.kernels for k in ks), default=0)
        self.scratch_floats = self.table_floats + CURSOR + whole_lines(scratch)

    def _tables(self, names: dict[Kernel, str]) -> None:
        addresses = {kernel: self.loaded.address(name) for kernel, name in names.items()}
        parts, views, steps, self.weights_at = [], [], [0], []
        weights = 0
        for problems, kernels in zip(self.problems, self.kernels, strict=True):
            for problem, kernel in zip([*problems, *_halos(problems)], kernels, strict=True):
                self.weights_at.append(weights)
                places, end = [], weights + whole_lines(kernel.packed)
                for view in problem.views:
                    constant = view.buffer == WEIGHTS
                    places.append((WEIGHTS, end) if constant else (view.buffer, view.offset))
                    end += whole_lines(view.channels) if constant else 0
                if kernel.packed:
                    places.append((WEIGHTS, weights))
                weights = end
                parts.append((addresses[kernel], kernel.items, len(views), len(places)))
                views += places
            steps.append(len(parts))
        at = iter(self.weights_at)
        starts = [[next(at) for _ in kernels] for kernels in self.kernels]
        self.fetches = np.array(fetch.plan(self.kernels, starts), np.int64).reshape(-1, 3)
        self.weight_floats = weights
        self.buffer_count = 1 + max([WEIGHTS, *(buffer for buffer, _ in views)])
        self.most_views = max((count for *_, count in parts), default=0)
        self.table_floats = whole_lines(2 * table_words(self.buffer_count, self.most_views))
        self.parts = np.array(parts, np.int64).reshape(-1, 4)
        self.views = np.array(views, np.int64).reshape(-1, 2)
        self.steps = np.array(steps, np.int64)


class _Chosen:
    """The kernel of each problem; problems that differ only in places share one."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._kernels: dict[Problem, Kernel] = {}

    def __getitem__(self, problem: Problem) -> Kernel:
        halo, need = problem.x.halo, problem.x_halo
        assert problem.x.channel_pitch != 1 or halo.union(need) == halo, f"{problem} reads beyond its halo"
        shape = at_origin(problem)
        if shape not in self._kernels:
            self._kernels[shape] = _kernel(shape, self._target)
        return self._kernels[shape]

    @property
    def kernels(self) -> list[Kernel]:
        return list(self._kernels.values())


@lru_cache(maxsize=1000)
def _kernel(problem: Problem, target: Target) -> Kernel:
    return templates.choose(problem, target)


def at_origin(problem: Problem) -> Problem:
    """Return the problem with every view moved to the origin."""

    def moved(value: Any) -> Any:
        if isinstance(value, View):
            return value.geometry()
        parts = {k: v for k, v in vars(value).items() if isinstance(v, (View, Problem, Prologue, Epilogue))}
        changed = {name: moved(part) for name, part in parts.items()}
        if isinstance(value, Chain):
            changed["links"] = tuple(moved(link) for link in value.links)
        return replace(value, **changed) if changed else value

    return moved(problem)


def _halos(problems: Sequence[Problem]) -> list[Zeros]:
    return [Zeros(p.y, p.y) for p in problems if p.y.halo]


def _symbol(kernel: Kernel) -> str:
    return f"k_{hashlib.sha256(kernel.key.encode()).hexdigest()[:24]}"


def _objects(
    names: dict[Kernel, str], target: Target, progress: Callable[[int, int], None] | None
) -> Iterator[bytes]:
    """Yield object code of each kernel, from the cache where it has it."""
    cache = Cache.default()
    for i, (kernel, name) in enumerate(names.items()):
        key = "\n".join([_sources(), jit.VERSION, repr(target), kernel.key])
        yield cache.get(key, lambda: jit.compile_object(jit.assembly(kernel.emit(name)), target))  # noqa: B023
        if progress:
            progress(i + 1, len(names))


@cache
def _sources() -> str:
    """Return a hash of this package's source: other generators make other code."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _pack(layout: Layout, steps: Sequence[Step]) -> np.ndarray:
    weights = aligned(layout.weight_floats)
    weights[:] = 0
    at = iter(layout.weights_at)

    def pack(kernel: Kernel, start: int, parameters: Mapping[str, np.ndarray]) -> None:
        constants = kernel.problem.constants
        packed = {name: numbers for name, numbers in parameters.items() if name not in constants}
        weights[start : start + kernel.packed] = kernel.pack(packed)
        start += whole_lines(kernel.packed)
        for name in constants:
            weights[start : start + len(parameters[name])] = parameters[name]
            start += whole_lines(len(parameters[name]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # most of it is copies, which threads make side by side
        done = [
            pool.submit(pack, kernel, next(at), step.parts[i].parameters if i < len(step.parts) else {})
            for step, kernels in zip(steps, layout.kernels, strict=True)
            for i, kernel in enumerate(kernels)
        ]
    for each in done:
        each.result()
    return weights
