"""Templates: one way of doing a kind of problem each; `choose` picks the quickest by its estimate."""

from __future__ import annotations

from regroup.errors import RegroupError
from regroup.kernels.problem import Conv, Problem
from regroup.kernels.target import Target
from regroup.kernels.templates import dense
from regroup.kernels.templates.base import Kernel


class KernelError(RegroupError):
    """A problem that no template covers."""


def kernels(problem: Problem, target: Target) -> list[Kernel]:
    """Return every way to do a problem."""
    if isinstance(problem, Conv):
        return [*dense.candidates(problem, target)]
    return []


def choose(problem: Problem, target: Target) -> Kernel:
    """Return the way with the lowest estimated time.

    Raises:
        KernelError: there is none.
    """
    ways = kernels(problem, target)
    if not ways:
        raise KernelError(f"no kernel for {problem}")
    return min(ways, key=lambda kernel: kernel.cycles)
