"""Runs random convolutions over lines in guarded memory: `python -m tests.kernels.lines SEED COUNT`.

A process of its own, because a kernel that reads or writes one byte outside of its tensors ends it: the last
line of its output then names the problem. Numbers are small integers: results are exact, whatever the tile.
"""

from __future__ import annotations

import ctypes
import faulthandler
import math
import sys
from itertools import pairwise
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.kernels.language.code import assembly
from regroup.kernels.lines.geometry import Axis, Geometry, Planes
from regroup.kernels.lines.problem import Forward, InputGradient, WeightGradient
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.templates.base import Kernel
from regroup.kernels.templates.lines import products, sums
from tests.kernels.memory import Guarded

_FLOATS = 1 << 19
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Case:
    """A random convolution: sizes that leave rests everywhere, one to three dimensions, any layout."""

    def __init__(self, rng: Random) -> None:
        self.rank = rng.choice((1, 2, 2, 2, 3))
        self.groups = rng.choice((1, 2, 3, 5, 8, 16, 17, 24, 25))
        self.width_in, self.width_out = (rng.choice((1, 1, 2, 3, 4, 8)) for _ in range(2))
        kernels = (1, 2, 3, 3, 5, 7, 9) if self.rank < 3 else (1, 2, 3)
        largest = {1: 70, 2: 21, 3: 9}[self.rank]
        while True:
            self.kernel = [rng.choice(kernels) for _ in range(self.rank)]
            self.stride = [rng.choice((1, 1, 1, 2, 2, 3)) for _ in range(self.rank)]
            self.padding = [rng.randint(0, 4) for _ in range(self.rank)]
            self.dilation = [rng.choice((1, 1, 2, 3)) for _ in range(self.rank)]
            self.size = [rng.randint(1, largest) for _ in range(self.rank)]
            axes = zip(self.size, self.kernel, self.padding, self.dilation, strict=True)
            if all(n + 2 * p >= d * (k - 1) + 1 for n, k, p, d in axes):
                break
        self.images = rng.choice((1, 2, 3))
        self.layouts = [rng.choice(("channels first", "channels last", "sliced")) for _ in range(2)]

    def __repr__(self) -> str:
        return str(vars(self))

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return what PyTorch makes of it."""
        sizes = self.stride, self.padding, self.dilation
        return _CONV[self.rank](x, weight, bias, *sizes, self.groups)


class Bench:
    """The regions that problems run in."""

    def __init__(self) -> None:
        self.regions = [Guarded(_FLOATS) for _ in range(5)]

    def tensor(self, place: int, numbers: Tensor, layout: str, at_end: bool) -> Tensor:
        """Return a copy of a tensor that lies right at a protected page."""
        shape = list(numbers.shape)
        if layout == "channels last":
            order = [0, *range(2, len(shape)), 1]
        else:
            order = list(range(len(shape)))
        within = [shape[i] for i in order]
        if layout == "sliced":
            within[-1] += 3
        buffer = torch.from_numpy(self.regions[place].take(math.prod(within), at_end))
        buffer.fill_(float("nan"))
        view = buffer.view(within)[..., : shape[order[-1]]]
        view = view.permute([order.index(i) for i in range(len(shape))])
        view.copy_(numbers)
        return view

    def run(self, kernel: Kernel, tensors: list[Tensor], rng: Random, at_end: bool) -> None:
        """Run all items of a kernel, in pieces."""
        text = assembly(kernel.emit("kernel"))
        loaded = jit.load([jit.compile_object(text, kernel.target)])
        types = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
        call = ctypes.CFUNCTYPE(None, *types)(loaded.address("kernel"))
        table = (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
        scratch = self.regions[-1].take(kernel.scratch, at_end)
        scratch[:] = np.nan
        cuts = sorted({0, kernel.items, *(rng.randrange(kernel.items + 1) for _ in range(2))})
        for low, high in pairwise(cuts):
            call(table, low, high, scratch.ctypes.data)


def planes(x: Tensor) -> Planes:
    """Return where a tensor lies."""
    image, channel, *strides = x.stride()
    missing = 3 - len(strides)
    sizes, strides = [1] * missing + list(x.shape[2:]), [0] * missing + strides
    a, b, c = (Axis(n, s, 0, 1, n) for n, s in zip(sizes, strides, strict=True))
    return Planes(image, channel, (a, b, c))


def shared(case: Case, x: Tensor, y: Tensor) -> dict:
    """Return what the three problems have in common."""

    def triple(values: list[int], missing: int) -> tuple:
        return (missing,) * (3 - len(values)) + tuple(values)

    sizes = triple(list(x.shape[2:]), 1), triple(list(y.shape[2:]), 1), triple(case.kernel, 1)
    steps = triple(case.stride, 1), triple(case.padding, 0), triple(case.dilation, 1)
    widths = {"width_in": case.width_in, "width_out": case.width_out}
    places = {"geometry": Geometry(*sizes, *steps), "input": planes(x), "output": planes(y)}
    return {**places, "images": case.images, "groups": case.groups, **widths}


def check(case: Case, bench: Bench, rng: Random, target: Target, at_end: bool) -> None:
    """Run all three passes of a case with a random tile each."""
    channels, outputs = case.groups * case.width_in, case.groups * case.width_out
    x = torch.randint(-3, 4, (case.images, channels, *case.size)).float()
    weight = torch.randint(-3, 4, (outputs, case.width_in, *case.kernel)).float()
    bias = torch.randint(-3, 4, (outputs,)).float() if rng.random() < 0.5 else None
    wide = [t.double().requires_grad_() for t in (x, weight)]
    right = case.conv(*wide, None if bias is None else bias.double())
    g = torch.randint(-3, 4, right.shape).float()
    dx, dw = torch.autograd.grad(right, wide, g.double())

    def place(i: int, numbers: Tensor, layout: str) -> Tensor:
        return bench.tensor(i, numbers, layout, at_end)

    first, second = case.layouts
    weights = place(1, weight, "channels first")
    taken, given = place(0, x, first), place(2, torch.full_like(g, torch.nan), second)
    forward = Forward(**shared(case, taken, given), bias=bias is not None)
    kernel = rng.choice(sums.candidates(forward, target))
    extra = [] if bias is None else [place(3, bias, "channels first")]
    bench.run(kernel, [taken, weights, *extra, given], rng, at_end)
    assert torch.equal(given.double(), right), f"forward, tile {kernel.tile}"

    upstream, made = place(2, g, second), place(0, torch.full_like(x, torch.nan), first)
    kernel = rng.choice(sums.candidates(InputGradient(**shared(case, made, upstream)), target))
    bench.run(kernel, [upstream, weights, made], rng, at_end)
    assert torch.equal(made.double(), dx), f"gradient of the input, tile {kernel.tile}"

    taken, parts = place(0, x, first), rng.randint(1, case.images)
    made = place(1, torch.full((parts, *weight.shape), torch.nan), "channels first")
    problem = WeightGradient(**shared(case, taken, upstream), parts=parts)
    kernel = rng.choice(products.candidates(problem, target))
    bench.run(kernel, [taken, upstream, made], rng, at_end)
    assert torch.equal(made.sum(0).double(), dw), f"gradient of the weights, tile {kernel.tile}"


def main(seed: int, count: int) -> None:
    """Run `count` cases, on each target that this machine has."""
    faulthandler.enable()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng, bench = Random(f"lines {seed}"), Bench()
    targets = [Target.host(), Target.avx2()] if Target.host().name == "AVX-512" else [Target.host()]
    for i in range(count):
        case, target, at_end = Case(rng), rng.choice(targets), rng.random() < 0.5
        print(i, target.name, at_end, case, flush=True)
        check(case, bench, rng, target, at_end)
    print("passed", count, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
