"""Steps -> kernels, and where everything lies: what a program is on any CPU, before there is machine code."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from regroup.kernels import templates
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Chain, Epilogue, Problem, Prologue
from regroup.kernels.problems.view import ARENA, WEIGHTS, View
from regroup.kernels.program.steps import Step
from regroup.kernels.templates.base import LINE, Kernel, whole_lines
from regroup.kernels.templates.halo import Zeros
from regroup.kernels.templates.parts import fetch


@dataclass(frozen=True)
class Placed:
    """A kernel in its place within a program.

    Attributes:
        kernel: what does the work.
        weights_at: where its packed weights begin, in floats.
        views: buffer and offset of each of its pointers, in floats, as its function takes them.
    """

    kernel: Kernel
    weights_at: int
    views: tuple[tuple[int, int], ...]


class Arrangement:
    """The kernels of a program, step by step, and where they read and write.

    Args:
        steps: what to do, in order.
        target: the CPU.
        arena_floats: size of one image's arena; the views' extent by default.

    Attributes:
        names: of the steps.
        problems: of each step; its kernels do these, then the zeros around their outputs.
        steps: of each step, its kernels in their places.
        symbols: the name of each kernel's function.
        weight_floats: of all packed weights.
        fetches: for each step, what of the weights to fetch meanwhile (`fetch.plan`).
        scratch: private memory that kernels need, in floats.
    """

    def __init__(self, steps: Sequence[Step], target: Target, arena_floats: int = 0) -> None:
        self.target = target
        self.names = [step.name for step in steps]
        self.problems = [[part.problem for part in step.parts] for step in steps]
        chosen = _Chosen(target)
        kernels = [[chosen[p] for p in [*problems, *_halos(problems)]] for problems in self.problems]
        self.symbols = {kernel: _symbol(kernel) for kernel in chosen.kernels}
        self.steps, self.weight_floats = _placed(self.problems, kernels)
        starts = [[placed.weights_at for placed in step] for step in self.steps]
        self.fetches = fetch.plan(kernels, starts)
        views = [v for problems in self.problems for p in problems for v in p.views if v.buffer == ARENA]
        extent = max((v.offset + v.last + 1 for v in views), default=0)
        self.arena_floats = whole_lines(max(arena_floats, extent))
        self.scratch = whole_lines(max((k.scratch for ks in kernels for k in ks), default=0))

    @property
    def kernels(self) -> list[list[Kernel]]:
        """The kernels of each step."""
        return [[placed.kernel for placed in step] for step in self.steps]

    def pack(self, steps: Sequence[Step]) -> np.ndarray:
        """Return the parameters of `steps` (same problems) as the kernels read them."""
        weights = aligned(self.weight_floats)
        weights[:] = 0

        def pack(placed: Placed, parameters: Mapping[str, np.ndarray]) -> None:
            kernel, start = placed.kernel, placed.weights_at
            constants = kernel.problem.constants
            packed = {name: numbers for name, numbers in parameters.items() if name not in constants}
            weights[start : start + kernel.packed] = kernel.pack(packed)
            start += whole_lines(kernel.packed)
            for name in constants:
                weights[start : start + len(parameters[name])] = parameters[name]
                start += whole_lines(len(parameters[name]))

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # most of it is copies, which threads make at once
            done = [
                pool.submit(pack, placed, step.parts[i].parameters if i < len(step.parts) else {})
                for step, mine in zip(steps, self.steps, strict=True)
                for i, placed in enumerate(mine)
            ]
        for each in done:
            each.result()
        return weights


def _placed(
    problems: Sequence[Sequence[Problem]], kernels: Sequence[Sequence[Kernel]]
) -> tuple[list[list[Placed]], int]:
    """Return each step's kernels in their places, and the floats of their packed weights."""
    steps: list[list[Placed]] = []
    weights = 0
    for mine, ways in zip(problems, kernels, strict=True):
        steps.append([])
        for problem, kernel in zip([*mine, *_halos(mine)], ways, strict=True):
            places, end = [], weights + whole_lines(kernel.packed)
            for view in problem.views:
                constant = view.buffer == WEIGHTS
                places.append((WEIGHTS, end) if constant else (view.buffer, view.offset))
                end += whole_lines(view.channels) if constant else 0
            if kernel.packed:
                places.append((WEIGHTS, weights))
            steps[-1].append(Placed(kernel, weights, tuple(places)))
            weights = end
    return steps, weights


def aligned(floats: int) -> np.ndarray:
    """Return float32 memory that starts at a multiple of 64 bytes."""
    raw = np.empty(floats + LINE, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    return raw[start : start + floats]


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
    key = f"{kernel.target.name} {kernel.key}"
    return f"k_{hashlib.sha256(key.encode()).hexdigest()[:24]}"
