"""Steps -> kernels, and the tables by which the runner finds them: all of a program but its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from regroup.files.cache import Cache
from regroup.kernels import templates
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Chain, Epilogue, Problem, Prologue
from regroup.kernels.problems.view import ARENA, WEIGHTS, View
from regroup.kernels.program.region import Region
from regroup.kernels.program.runner import MOST_CLAIMS, table_words
from regroup.kernels.program.steps import Step
from regroup.kernels.templates.base import Kernel, ceil_div, whole_lines
from regroup.kernels.templates.halo import Zeros
from regroup.kernels.templates.parts import fetch
from regroup.kernels.templates.parts.fetch import CURSOR

_CHUNK = 1e5
"""Cycles: what a thread that has lost its core may hold back."""

_MOST_CHUNKS = 32
"""Of a thread's share of a part."""


class Layout:
    """All of a program but its weights: kernels, where they lie, and the tables that the runner reads."""

    def __init__(
        self,
        steps: Sequence[Step],
        target: Target,
        arena_floats: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.names = [step.name for step in steps]
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

    def chunks(self, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `chunks` and `claims` of the runner's fields, for so many threads.

        Results do not depend on them, since work items write outputs of their own.
        """
        chunks, claims = [], []
        for kernels in self.kernels:
            sizes = [chunk(kernel, threads) for kernel in kernels]
            shares = [ceil_div(kernel.items, threads) for kernel in kernels]
            counts = [ceil_div(share, size) for share, size in zip(shares, sizes, strict=True)]
            if sum(counts) > MOST_CLAIMS:
                sizes, counts = [k.items for k in kernels], [1] * len(kernels)
            starts = [sum(counts[:i]) for i in range(len(counts))]
            chunks += zip(starts, counts, sizes, strict=True)
            claims.append(max(1, sum(counts)))
        return np.array(chunks, np.int64).reshape(-1, 3), np.array(claims, np.int64)

    def longest(self, threads: int, image_per_thread: bool) -> float:
        """Return the cycles of what a thread claims at a time, at most."""
        kernels = [kernel for kernels in self.kernels for kernel in kernels]
        if image_per_thread:
            return sum(kernel.cycles for kernel in kernels)
        return max((k.cycles * chunk(k, threads) / max(k.items, 1) for k in kernels), default=0.0)


def chunk(kernel: Kernel, threads: int) -> int:
    """Return how many items of a kernel a thread claims at a time: tens of microseconds, whole grains."""
    share = max(1, ceil_div(kernel.items, threads))
    wanted = kernel.items * _CHUNK / max(kernel.cycles, 1.0)
    size = max(1, round(wanted / kernel.grain)) * kernel.grain
    return min(share, max(size, ceil_div(share, _MOST_CHUNKS)))


def why_not(problem: Problem, target: Target | None = None) -> str | None:
    """Return why no template does `problem`, or None if one does."""
    try:
        _kernel(at_origin(problem), target or Target.host())
    except templates.KernelError as error:
        return str(error)
    return None


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
        yield cache.get(key, lambda: jit.compile_object(assembly(kernel.emit(name)), target))  # noqa: B023
        if progress:
            progress(i + 1, len(names))


@cache
def _sources() -> str:
    """Return a hash of the kernels' source: other generators make other code."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
