"""Convolutions and their gradients by generated code: the CPU backend for narrow groups.

Kernels (`regroup.kernels.lines`) are written for exact shapes, kept on disk, and run on PyTorch's threads.
What they return does not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from regroup.kernels.lines.geometry import Axis, Geometry, Planes, Triple
from regroup.kernels.lines.problem import Forward, InputGradient, SumParts, WeightGradient
from regroup.kernels.machine.target import Target
from regroup.kernels.machine.threads import Lock, torch_threads
from regroup.kernels.program import Call as Prepared
from regroup.kernels.program import Part, Program, Step, build
from regroup.ops.aten import Aten
from regroup.ops.costs import seconds
from regroup.ops.passes import WIDEST, Backend, Call, Pass, memory_format

_PARTS = 16
"""Shares of the images in which weights' gradients are summed, if there are fewer blocks of groups."""

_MOST = 512
"""Shapes whose kernels are held; the oldest goes."""


class Native(Backend):
    """Code generated through LLVM."""

    name = "llvm"

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple, _Plan] = OrderedDict()
        self._lock = Lock()

    def why_not(self, which: Pass, call: Call) -> str | None:
        """Return why it cannot compute a pass, None if it can."""
        if call.device != "cpu":
            return f"for the CPU, not for {call.device}"
        if call.dtype != torch.float32:
            return f"for float32, not for {str(call.dtype).removeprefix('torch.')}"
        if max(call.width_in, call.width_out) > WIDEST:
            return f"for groups of at most {WIDEST} channels, not {max(call.width_in, call.width_out)}"
        if 0 in call.x or 0 in call.weight:
            return "nothing to do"
        return Target.host().lacks or None

    def expected(self, which: Pass, call: Call) -> float:
        """Return the seconds of one thread."""
        return seconds(self.name, which, call)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        """Return y, (N, K, *out), in the memory format of x."""
        x, weight = _plain(x), _dense(weight)
        y = _empty(call.y, x)
        extra = () if bias is None else (_dense(bias),)
        key = ("forward", call, x.stride(), y.stride(), bias is None)
        self._run(key, lambda: _forward(call, x, y, bias is not None), (x, weight, y, *extra))
        return y

    def input_gradient(self, g: Tensor, weight: Tensor, call: Call) -> Tensor:
        """Return the gradient of x, from that of y, in its memory format."""
        if not math.isfinite(weight.sum()):  # as below
            return Aten().input_gradient(g, weight, call)
        g, weight = _plain(g), _dense(weight)
        x = _empty(call.x, g)
        key = ("input_gradient", call, g.stride(), x.stride())
        self._run(key, lambda: _input_gradient(call, x, g), (x, weight, g))
        return x

    def weight_gradient(self, x: Tensor, g: Tensor, call: Call) -> Tensor:
        """Return the gradient of the weights, from that of y."""
        x, g = _plain(x), _plain(g)
        weight = torch.empty(call.weight, dtype=torch.float32, device="cpu")
        key = ("weight_gradient", call, x.stride(), g.stride())
        self._run(key, lambda: _weight_gradient(call, x, g), (x, weight, g))
        if not math.isfinite(weight.sum()):
            # zeros between the rows of lines meet NaN and infinity, where the definition has nothing
            return Aten().weight_gradient(x, g, call)
        return weight

    def _run(self, key: tuple, steps: Callable[[], list[Step]], tensors: tuple[Tensor, ...]) -> None:
        plan = self._plans.get(key)
        if plan is None:
            plan = _Plan(build(steps()), len(tensors))
            with self._lock:
                self._plans[key] = plan
                if len(self._plans) > _MOST:
                    self._plans.popitem(last=False)
        plan.run(tensors)


class _Plan:
    """A program, and calls of it that wait to be used again."""

    def __init__(self, program: Program, buffers: int) -> None:
        self._program, self._strides = program, [0] * buffers
        self._waiting: dict[int, list[_Prepared]] = {}

    def run(self, tensors: tuple[Tensor, ...]) -> None:
        threads = torch_threads()
        waiting = self._waiting.setdefault(threads, [])
        try:
            call = waiting.pop()
        except IndexError:
            call = _Prepared(self._program, threads, self._strides)
        call.run(1, [tensor.data_ptr() for tensor in tensors])
        if len(waiting) < 2:
            waiting.append(call)


class _Prepared:
    def __init__(self, program: Program, threads: int, strides: list[int]) -> None:
        self._arena = program.new_arena(threads)
        self.run = Prepared(program, self._arena.ctypes.data, threads, False, strides)


def _plain(x: Tensor) -> Tensor:
    """Return a tensor that has one of the two formats, more or less: rows or channels side by side."""
    x = x.resolve_neg()
    strides = x.stride()
    if strides[-1] == 1 or strides[1] == 1:
        return x
    return x.contiguous()


def _dense(x: Tensor) -> Tensor:
    return x.resolve_neg().contiguous()


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return an empty tensor in the memory format of another."""
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=memory_format(like))


def _forward(call: Call, x: Tensor, y: Tensor, bias: bool) -> list[Step]:
    return [Step("forward", (Part(Forward(**_shared(call, x, y), bias=bias)),))]


def _input_gradient(call: Call, x: Tensor, g: Tensor) -> list[Step]:
    return [Step("input gradient", (Part(InputGradient(**_shared(call, x, g))),))]


def _weight_gradient(call: Call, x: Tensor, g: Tensor) -> list[Step]:
    parts = max(1, min(call.x[0], _PARTS // call.groups))
    problem = WeightGradient(**_shared(call, x, g), parts=parts)
    steps = [Step("weight gradient", (Part(problem),))]
    if parts > 1:
        steps.append(Step("sum", (Part(SumParts(parts=parts, count=problem.weights)),)))
    return steps


def _shared(call: Call, x: Tensor, y: Tensor) -> dict:
    geometry = Geometry(
        _triple(call.x[2:], 1),
        _triple(call.out, 1),
        _triple(call.weight[2:], 1),
        _triple(call.stride, 1),
        _triple(call.padding, 0),
        _triple(call.dilation, 1),
    )
    return {
        "geometry": geometry,
        "input": _planes(x),
        "output": _planes(y),
        "images": call.x[0],
        "groups": call.groups,
        "width_in": call.width_in,
        "width_out": call.width_out,
    }


def _triple(values: tuple[int, ...], missing: int) -> Triple:
    """Return three numbers: leading dimensions that are not there are single."""
    a, b, c = (missing,) * (3 - len(values)) + tuple(values)
    return (a, b, c)


def _planes(x: Tensor) -> Planes:
    image, channel, *strides = x.stride()
    sizes, strides = _triple(tuple(x.shape[2:]), 1), _triple(tuple(strides), 0)
    a, b, c = (Axis(n, s, 0, 1, n) for n, s in zip(sizes, strides, strict=True))
    return Planes(image, channel, (a, b, c))
