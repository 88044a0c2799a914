"""Templates: one way of doing a kind of problem each; `choose` picks the quickest by its estimate."""

from __future__ import annotations

from regroup.errors import RegroupError
from regroup.kernels.lines.problem import Forward, InputGradient, SumParts, WeightGradient
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import (
    AdaptivePool,
    Attention,
    BlockFloatingPoint,
    Chain,
    Constant,
    Conv,
    IntegerConv,
    Linear,
    Modulate,
    Moments,
    NormScales,
    Pick,
    Pointwise,
    Pool,
    Problem,
    Resize,
    ToIntegers,
)
from regroup.kernels.problems.dynamic import DynamicConv, Largest
from regroup.kernels.templates import (
    attention,
    chain,
    dense,
    dynamic,
    halo,
    lanes,
    largest,
    norms,
    pointwise,
    pool,
    resident,
    resize,
    rows,
    winograd,
)
from regroup.kernels.templates.base import Kernel
from regroup.kernels.templates.integers import blocks
from regroup.kernels.templates.integers import convolution as integers
from regroup.kernels.templates.lines import products, sums


class KernelError(RegroupError):
    """A problem that no template covers."""


def kernels(problem: Problem, target: Target) -> list[Kernel]:
    """Return every way to do a problem."""
    match problem:
        case Chain():
            return [*chain.candidates(problem, target, banded)]
        case Conv():
            return [
                *dense.candidates(problem, target),
                *lanes.candidates(problem, target),
                *resident.candidates(problem, target),
                *winograd.candidates(problem, target),
            ]
        case Linear():
            return [dense.linear(problem, target)]
        case Largest():
            return [largest.LargestByBits(problem, target)]
        case DynamicConv():
            return [*dynamic.candidates(problem, target)]
        case Pointwise():
            return [*pointwise.candidates(problem, target)]
        case Constant():
            return pointwise.constants(problem, target)
        case Pool() | AdaptivePool():
            return pool.candidates(problem, target)
        case Resize() | Pick():
            return [*resize.candidates(problem, target)]
        case Attention():
            return attention.candidates(problem, target)
        case Moments() | NormScales() | Modulate():
            return norms.candidates(problem, target)
        case BlockFloatingPoint() | ToIntegers():
            return blocks.candidates(problem, target)
        case IntegerConv():
            return [*integers.candidates(problem, target)]
        case Forward() | InputGradient():
            return [*sums.candidates(problem, target)]
        case WeightGradient():
            return [*products.candidates(problem, target)]
        case SumParts():
            return [products.AddParts(problem, target)]
        case halo.Zeros():
            return [halo.Border(problem, target)]
    return rows.candidates(problem, target)


def banded(problem: Problem, target: Target) -> Kernel:
    """Return the quickest way to do a link of a chain: one whose work items are single rows, in order."""
    if isinstance(problem, Conv):
        ways = [*dense.candidates(problem, target, True), *lanes.candidates(problem, target, True)]
        ways += resident.candidates(problem, target)
    else:
        ways = kernels(problem, target)
    ways = [kernel for kernel in ways if kernel.rows == 1]
    if not ways:
        raise KernelError(f"no kernel by rows for {problem}")
    return min(ways, key=lambda kernel: kernel.cycles)


def choose(problem: Problem, target: Target) -> Kernel:
    """Return the way with the lowest estimated time.

    Raises:
        KernelError: there is none.
    """
    ways = kernels(problem, target)
    if not ways:
        raise KernelError(f"no kernel for {problem}")
    return min(ways, key=lambda kernel: kernel.cycles)
