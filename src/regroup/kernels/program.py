"""Kernels -> one native function for a whole network: one parallel region, a barrier after each step.

program = build([Step("conv1", (Part(conv, {"weight": w, "bias": b}),)), ...])
program.run([arena, x, y], threads=2)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from regroup.kernels.problem import Problem
from regroup.kernels.target import Target


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
    """

    choices: tuple[tuple[Choice, ...], ...]

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
                All are aligned to 64 bytes at best, to 4 at least.
            threads: how many threads to use.
            images: batch size.
            strides: floats from one image to the next, per buffer of `buffers` after the arena.
            image_per_thread: each thread does whole images in an arena of its own (the arenas lie
                `arena_stride` floats apart), instead of all threads sharing each step.
            steps: a range of steps to run instead of all; for timing.
        """
        raise NotImplementedError

    def pack(self, steps: Sequence[Step]) -> Program:
        """Return a program of the same code with the parameters of `steps` (same problems) in it."""
        raise NotImplementedError


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
        target: the CPU, this one by default.
        arena_floats: size of one thread's arena, for `image_per_thread`.
        progress: called with (kernels done, kernels in all).

    Raises:
        KernelError: a problem that no template covers; ask `why_not` first.
    """
    raise NotImplementedError


def why_not(problem: Problem, target: Target | None = None) -> str | None:
    """Return why no template does `problem`, or None if one does."""
    raise NotImplementedError
