"""Runs random problems on every target, in guarded memory: `python -m tests.kernels.run FAMILY SEED COUNT`.

A process of its own, because a kernel that reads or writes one byte outside of its tensors ends it: the last
line of its output then names the problem.
"""

from __future__ import annotations

import ctypes
import faulthandler
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
import torch
from torch import Tensor

from regroup.kernels import problems as p
from regroup.kernels import templates
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.dynamic import DynamicConv
from regroup.kernels.problems.view import View
from regroup.kernels.templates.base import Kernel
from regroup.kernels.templates.halo import Zeros
from regroup.kernels.templates.parts.fetch import CURSOR
from tests.kernels.memory import Guarded
from tests.kernels.problems import MAKERS
from tests.kernels.reference import expected

_UNTOUCHED = np.uint32(0x7FC0BEEF)
"""A NaN that marks floats which the kernel must neither use nor write."""
_FLOATS = 1 << 20


@dataclass
class Job:
    """One run of a kernel, in memory between protected pages.

    Attributes:
        kernel: which.
        buffers: those of the views, then the packed weights.
        offsets: where in each the function's pointer points, in floats.
        private: the cursor, then its scratch memory.
        at_end: whether protected pages follow the buffers at once, or precede them.
        ranges: first work item, and the one after the last, call by call.
    """

    kernel: Kernel
    buffers: list[np.ndarray]
    offsets: list[int]
    private: np.ndarray
    at_end: bool
    ranges: list[tuple[int, int]]


class Here:
    """Runs kernels in this process."""

    def __init__(self) -> None:
        self._last: tuple[Kernel | None, int, object] = (None, 0, None)

    def __call__(self, job: Job) -> None:
        """Do a job."""
        if self._last[0] is not job.kernel:
            self._last = (job.kernel, *_compiled(job.kernel))
        starts = [
            buffer.ctypes.data + 4 * offset for buffer, offset in zip(job.buffers, job.offsets, strict=True)
        ]
        table = (ctypes.c_void_p * len(starts))(*starts)
        kinds = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        call, done = ctypes.CFUNCTYPE(None, *kinds)(self._last[1]), None
        for low, high in job.ranges:
            # the call goes on where the one before has ended
            job.private[:CURSOR].view(np.int64)[2] = low == done
            call(table, low, high, job.private.ctypes.data + 4 * CURSOR)
            done = high


class Bench:
    """The regions that problems run in.

    Args:
        machine: what runs kernels; this process by default.
    """

    def __init__(self, machine: Callable[[Job], None] | None = None) -> None:
        self.regions = [Guarded(_FLOATS) for _ in range(9)]
        self.machine = machine or Here()

    def run(self, kernel: Kernel, rng: Random, exact: bool) -> None:
        """Run a kernel on random numbers and compare it with the reference."""
        problem, generator = kernel.problem, torch.Generator().manual_seed(rng.randrange(1 << 30))
        parameters = {n: _numbers(s, generator, exact) for n, s in problem.parameters.items()}
        for at_end in (True, False):
            self._once(kernel, parameters, generator, rng, (exact, at_end))

    def _once(
        self,
        kernel: Kernel,
        parameters: dict[str, Tensor],
        generator: torch.Generator,
        rng: Random,
        flags: tuple[bool, bool],
    ) -> None:
        problem, (exact, at_end) = kernel.problem, flags
        tensors, buffers, offsets, output = {}, [], [], None
        for name, view, region in zip(_names(problem), problem.views, self.regions, strict=False):
            buffer = region.take(view.floats, at_end)
            buffer.view(np.uint32)[:] = _UNTOUCHED
            inside = _inside(view, buffer)
            if name != "y":
                tensors[name] = _numbers((view.channels, view.height, view.width), generator, exact)
                if isinstance(problem, p.NormScales):
                    tensors[name] = tensors[name].abs()  # no variance is negative
                if name == "slope":
                    tensors[name] = parameters[problem.constants[-1]].view(-1, 1, 1)
                if name == "choice":
                    numbers = _choice(problem, generator)
                    tensors[name].view(2, *numbers.shape)[0] = numbers
                _inside(view, buffer, halo=True)[:] = 0
                inside[:] = tensors[name].permute(1, 2, 0).numpy()
            output = (view, buffer)
            buffers.append(buffer)
            offsets.append(-view.first)
        weights = self.regions[-1].take(kernel.packed, at_end)
        weights[:] = kernel.pack({n: t.numpy() for n, t in parameters.items() if n not in problem.constants})
        weights[kernel.packed - kernel.rare :] = np.nan  # only for numbers that are not finite
        private = self.regions[-2].take(CURSOR + kernel.scratch, at_end)
        private.view(np.uint32)[:] = _UNTOUCHED
        # no memory is there: what is fetched ahead is not read
        private[:CURSOR].view(np.int64)[:3] = 0, 1 << 16, 0
        ranges = _ranges(kernel.items, rng)
        self.machine(Job(kernel, [*buffers, weights], [*offsets, 0], private, at_end, ranges))
        self._check(kernel, output, tensors, parameters, exact)

    def _check(
        self,
        kernel: Kernel,
        output: tuple[View, np.ndarray],
        tensors: dict[str, Tensor],
        parameters: dict[str, Tensor],
        exact: bool,
    ) -> None:
        problem, (view, buffer) = kernel.problem, output
        got = torch.from_numpy(_inside(view, buffer).copy()).permute(2, 0, 1)
        if isinstance(problem, Zeros):
            halo = _inside(view, buffer, halo=True)
            inner = _inside(view, buffer)
            assert (inner.view(np.uint32) == _UNTOUCHED).all(), "wrote into the tensor"
            inner[:] = 0
            assert (halo == 0).all(), "left a part of the halo as it was"
            halo.view(np.uint32)[:] = _UNTOUCHED
        else:
            want = expected(problem, tensors, parameters, kernel.template)
            error = (got.double() - want.exact).abs()
            if exact and _is_exact(problem):
                assert torch.equal(got.double(), want.exact), f"not exact: off by {error.max()}"
            bound = want.error + 1e-40
            assert bool((error <= bound).all()), (
                f"outside the rounding bound: {float((error / bound).max())} times"
            )
            _inside(view, buffer).view(np.uint32)[:] = _UNTOUCHED
        assert (buffer.view(np.uint32) == _UNTOUCHED).all(), "wrote outside of the tensor"


def _is_exact(problem: p.Problem) -> bool:
    averages = isinstance(problem, p.Pool | p.AdaptivePool) and problem.kind == "average"
    blends = isinstance(problem, p.Resize) and problem.mode == "bilinear"
    averages = averages or (isinstance(problem, p.AcrossChannels) and problem.kind == "average")
    norms = p.Softmax | p.Attention | p.LocalResponseNorm | p.LayerNorm | p.Moments | p.NormScales
    return not (averages or blends or isinstance(problem, norms))


def _compiled(kernel: Kernel) -> tuple[int, object]:
    text = assembly(kernel.emit("kernel"))
    loaded = jit.load([jit.compile_object(text, kernel.target)])
    return loaded.address("kernel"), loaded


def _names(problem: p.Problem) -> list[str]:
    """Return a name for each of the problem's views."""
    if isinstance(problem, Zeros):
        return ["y"]
    names = ["x", "choice"] if isinstance(problem, DynamicConv) else ["x"]
    if isinstance(problem, p.Chain):
        return [*names, *_names(problem.links[-1])[1:]]
    if isinstance(problem, p.Conv | p.Linear | p.Pointwise):
        names += ["in_gate"] if problem.prologue.gate is not None else []
    if isinstance(problem, p.Conv | p.Linear | p.Pointwise | DynamicConv):
        names += ["residual"] if problem.epilogue.residual is not None else []
        names += ["gate"] if problem.epilogue.gate is not None else []
        names += ["slope"] if problem.epilogue.slope is not None else []
    if isinstance(problem, p.Attention):
        names += ["keys", "values"]
    if isinstance(problem, p.Modulate):
        names.append("scales")
    if isinstance(problem, p.Pointwise) and problem.factor is not None:
        names.append("factor")
    return [*names, "y"]


def _choice(problem: DynamicConv, generator: torch.Generator) -> Tensor:
    """Return the inputs of each head: distinct, rising."""
    weights = torch.ones(problem.heads, problem.in_channels)
    return weights.multinomial(problem.kept, generator=generator).sort().values.float()


def _numbers(shape: tuple[int, ...], generator: torch.Generator, exact: bool) -> Tensor:
    if exact:
        return torch.randint(-2, 3, shape, generator=generator).float()
    return torch.randn(shape, generator=generator)


def _inside(view: View, buffer: np.ndarray, halo: bool = False) -> np.ndarray:
    h = view.halo if halo else type(view.halo)()
    start = -view.first - h.top * view.row_pitch - h.left * view.pixel_pitch
    shape = (view.height + h.top + h.bottom, view.width + h.left + h.right, view.channels)
    pitches = (view.row_pitch * 4, view.pixel_pitch * 4, view.channel_pitch * 4)
    return np.lib.stride_tricks.as_strided(buffer[start:], shape, pitches)


def _ranges(items: int, rng: Random) -> list[tuple[int, int]]:
    """Cut the work items at random places and shuffle the pieces, or leave them in order."""
    cuts = sorted({0, items, *(rng.randrange(items + 1) for _ in range(rng.randint(0, 3)))})
    pieces = list(pairwise(cuts))
    if rng.random() < 0.5:
        rng.shuffle(pieces)
    return pieces


def main(family: str, seed: int, count: int) -> None:
    """Run `count` problems of a family, alternating targets and kinds of numbers."""
    faulthandler.enable()
    torch.set_num_threads(1)
    targets = [Target.host(), Target.avx2()] if Target.host().name == "AVX-512" else [Target.host()]
    run_family(family, seed, count, targets, Bench())


def run_family(family: str, seed: int, count: int, targets: list[Target], bench: Bench) -> None:
    """Run `count` problems of a family on some targets; the last line printed names the problem."""
    rng = Random(f"{family} {seed}")
    done = 0
    while done < count:
        exact = rng.random() < 0.4
        problem, target = MAKERS[family](rng, exact), rng.choice(targets)
        ways = templates.kernels(problem, target)
        if not ways:
            continue
        ways = [kernel for kernel in ways if kernel.template == family] or ways
        kernel = rng.choice(ways)
        print(
            f"{family} {done} {target.name} {kernel.template} {kernel.tile} exact={exact} {problem}",
            flush=True,
        )
        bench.run(kernel, rng, exact)
        done += 1
    print("passed", done, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
