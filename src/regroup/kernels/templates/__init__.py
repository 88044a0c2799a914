"""Templates: one way of doing a kind of problem each; `choose` picks the quickest by its estimate."""

from __future__ import annotations

from regroup.errors import RegroupError
from regroup.kernels.problem import AdaptivePool, Conv, Linear, Pointwise, Pool, Problem, Resize
from regroup.kernels.target import Target
from regroup.kernels.templates import dense, halo, lanes, pointwise, pool, resize, rows
from regroup.kernels.templates.base import Kernel


class KernelError(RegroupError):
    """A problem that no template covers."""


def kernels(problem: Problem, target: Target) -> list[Kernel]:
    """Return every way to do a problem."""
    match problem:
        case Conv():
            return [*dense.candidates(problem, target), *lanes.candidates(problem, target)]
        case Linear():
            return [dense.linear(problem, target)]
        case Pointwise():
            return [*pointwise.candidates(problem, target)]
        case Pool() | AdaptivePool():
            return pool.candidates(problem, target)
        case Resize():
            return [*resize.candidates(problem, target)]
        case halo.Zeros():
            return [halo.Border(problem, target)]
    return rows.candidates(problem, target)


def choose(problem: Problem, target: Target) -> Kernel:
    """Return the way with the lowest estimated time.

    Raises:
        KernelError: there is none.
    """
    ways = kernels(problem, target)
    if not ways:
        raise KernelError(f"no kernel for {problem}")
    return min(ways, key=lambda kernel: kernel.cycles)
