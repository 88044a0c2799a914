"""A program's machine code in this process, and the tables by which the runner finds it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from regroup.files.cache import Cache
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.view import WEIGHTS
from regroup.kernels.program.arrangement import Arrangement
from regroup.kernels.program.region import Region
from regroup.kernels.program.runner import MOST_CLAIMS, table_words
from regroup.kernels.program.steps import Step
from regroup.kernels.templates.base import Kernel, ceil_div, whole_lines
from regroup.kernels.templates.parts.fetch import CURSOR

_CHUNK = 1e5
"""Cycles: what a thread that has lost its core may hold back."""

_MOST_CHUNKS = 32
"""Of a thread's share of a part."""


class Layout:
    """All of a program but its weights: kernels, where they lie, and the tables that the runner reads.

    Attributes:
        arrangement: the kernels and their places.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        target: Target,
        arena_floats: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.arrangement = arrangement = Arrangement(steps, target, arena_floats)
        self.names, self.kernels = arrangement.names, arrangement.kernels
        objects = list(_objects(arrangement.symbols, target, progress))
        self.loaded = jit.load(objects)
        self.region = Region.of(target)
        self._tables(arrangement)
        self.arena_floats = arrangement.arena_floats
        self.scratch_floats = self.table_floats + CURSOR + arrangement.scratch

    def _tables(self, arrangement: Arrangement) -> None:
        addresses = {kernel: self.loaded.address(name) for kernel, name in arrangement.symbols.items()}
        parts, views, steps = [], [], [0]
        for step in arrangement.steps:
            for placed in step:
                parts.append((addresses[placed.kernel], placed.kernel.items, len(views), len(placed.views)))
                views += placed.views
            steps.append(len(parts))
        self.fetches = np.array(arrangement.fetches, np.int64).reshape(-1, 3)
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
