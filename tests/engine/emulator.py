"""Steps of kernel problems, run by PyTorch on a real arena: the reference for layout and lowering.

The arena is full of NaN at first, so that what is read before it is written shows.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.engine.operators.activation import Activate
from regroup.engine.operators.resize import Resize
from regroup.kernels import problems as kernels
from regroup.kernels.problems.dynamic import DynamicConv, Largest
from regroup.kernels.problems.view import View
from regroup.ops.dynamic import ranked


class Emulator:
    """Like `regroup.kernels.program.Program`, slowly, on tensors instead of addresses."""

    def __init__(self, steps, arena_floats: int) -> None:
        self.steps, self.arena_floats = steps, arena_floats

    def __call__(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        for image in range(inputs[0].shape[0]):
            arena = torch.full((self.arena_floats,), float("nan"), dtype=inputs[0].dtype)
            buffers = [arena, None, *(t[image].reshape(-1) for t in (*inputs, *outputs))]
            for step in self.steps:
                for part in step.parts:
                    numbers = {k: torch.from_numpy(np.asarray(v)) for k, v in part.parameters.items()}
                    shapes = {k: tuple(v.shape) for k, v in numbers.items()}
                    assert shapes == part.problem.parameters, (step.name, part.problem)
                    _run(part.problem, numbers, buffers)


def _strided(view: View, buffers: list, halo: bool = False) -> Tensor:
    buffer = buffers[view.buffer]
    offset, height, width = view.offset, view.height, view.width
    if halo:
        offset += view.first
        height += view.halo.top + view.halo.bottom
        width += view.halo.left + view.halo.right
    last = offset + (height - 1) * view.row_pitch + (width - 1) * view.pixel_pitch
    assert offset >= 0
    assert last + (view.channels - 1) * view.channel_pitch < buffer.numel()
    strides = (view.channel_pitch, view.row_pitch, view.pixel_pitch)
    return buffer.as_strided((view.channels, height, width), strides, buffer.storage_offset() + offset)


def _run(problem: kernels.Problem, numbers: dict[str, Tensor], buffers: list) -> None:
    dtype = buffers[0].dtype
    numbers = {k: v.to(dtype) for k, v in numbers.items()}
    if isinstance(problem, (kernels.Conv, kernels.Chain, DynamicConv)):
        _check_halo(problem, buffers)
    y = _compute(problem, numbers, buffers, _strided(problem.x, buffers))
    target = _strided(problem.y, buffers)
    assert y.shape == target.shape, (problem, y.shape)
    y = y.clone()
    if problem.y.halo:
        _strided(problem.y, buffers, halo=True).zero_()
    target.copy_(y)


def _compute(p: kernels.Problem, numbers: dict[str, Tensor], buffers: list, x: Tensor) -> Tensor:
    if isinstance(p, kernels.Chain):
        for i, link in enumerate(p.links):
            own = {k.split(".", 1)[1]: v for k, v in numbers.items() if k.startswith(f"{i}.")}
            x = _compute(link, own, buffers, x)
        return x
    if isinstance(p, (kernels.Conv, kernels.Linear)):
        x = _prologue(p.prologue, numbers, buffers, x)
    if getattr(p, "order", None) is not None:
        x = x[list(p.order)]
    if isinstance(p, kernels.Conv):
        return _epilogue(p.epilogue, numbers, buffers, _conv(p, numbers, buffers, x))
    if isinstance(p, kernels.Linear):
        return _epilogue(p.epilogue, numbers, buffers, (numbers["weight"] @ x.flatten())[:, None, None])
    if isinstance(p, kernels.Pointwise):
        x = _prologue(p.prologue, numbers, buffers, x)
        x = x if p.factor is None else x * _strided(p.factor, buffers)
        return _epilogue(p.epilogue, numbers, buffers, x)
    size = (p.y.height, p.y.width)
    if isinstance(p, kernels.Pool):
        return _activate(p.activation, _pool(p, x))
    if isinstance(p, kernels.AdaptivePool):
        pool = F.adaptive_max_pool2d if p.kind == "max" else F.adaptive_avg_pool2d
        return pool(x[None], size)[0]
    if isinstance(p, kernels.Resize):
        return Resize(size, p.mode, p.align_corners, p.scale).evaluate(x[None])[0]
    if isinstance(p, kernels.LocalResponseNorm):
        return F.local_response_norm(x[None], p.size, p.alpha, p.beta, p.k)[0]
    if isinstance(p, Largest):
        scores = x.flatten().abs().view(p.heads, -1)
        index = ranked(scores)[:, : p.kept].sort().values
        return torch.cat([index, scores.gather(1, index)]).view(-1, 1, 1).to(x)
    if isinstance(p, DynamicConv):
        return _epilogue(p.epilogue, numbers, buffers, _dynamic(p, numbers, _strided(p.choice, buffers), x))
    assert isinstance(p, kernels.Softmax)
    return x.softmax(0)


def _check_halo(p: kernels.Problem, buffers: list) -> None:
    """The zeros that a convolution reads must be there."""
    if p.x.channel_pitch != 1:
        return
    need, have = p.x_halo, p.x.halo
    for side in ("top", "left", "bottom", "right"):
        assert getattr(have, side) >= getattr(need, side), side
    if p.x.halo:
        wide = _strided(p.x, buffers, halo=True).clone()
        wide[:, have.top : have.top + p.x.height, have.left : have.left + p.x.width] = 0
        assert not wide.any(), "something wrote into a halo"


def _conv(p: kernels.Conv, numbers: dict[str, Tensor], buffers: list, x: Tensor) -> Tensor:
    halo = p.x_halo
    assert p.prologue == kernels.Prologue() or not halo
    x = F.pad(x, (halo.left, halo.right, halo.top, halo.bottom))
    y = F.conv2d(x[None], numbers["weight"], None, p.stride, 0, p.dilation, p.groups)[0]
    return y[:, : p.y.height, : p.y.width]


def _dynamic(p: DynamicConv, numbers: dict[str, Tensor], choice: Tensor, x: Tensor) -> Tensor:
    index, sizes = choice.flatten().view(2, p.heads, p.kept)
    scale = torch.zeros(p.heads, p.in_channels).to(x).scatter(1, index.long(), sizes)
    weight = numbers["weight"] * scale.repeat_interleave(p.head_out, 0)[:, :, None, None]
    halo = p.x_halo
    x = F.pad(x, (halo.left, halo.right, halo.top, halo.bottom))
    return F.conv2d(x[None], weight, None, p.stride, 0, p.dilation)[0][:, : p.y.height, : p.y.width]


def _pool(p: kernels.Pool, x: Tensor) -> Tensor:
    (top, left), (bottom, right) = p.padding, p.padded if p.kind == "average" else p.padding
    assert (top, left) == (bottom, right)
    for ceil in (False, True):
        if p.kind == "max":
            y = F.max_pool2d(x[None], p.kernel_size, p.stride, p.padding, p.dilation, ceil)[0]
        else:
            count, divisor = p.count_include_pad, p.divisor or None
            y = F.avg_pool2d(x[None], p.kernel_size, p.stride, p.padding, ceil, count, divisor)[0]
        if y.shape[1:] == (p.y.height, p.y.width):
            return y
    raise AssertionError(p)


def _prologue(pro: kernels.Prologue, numbers: dict[str, Tensor], buffers: list, x: Tensor) -> Tensor:
    if pro.gate is not None:
        x = x * _strided(pro.gate, buffers)
    if pro.affine:
        x = x * numbers["in_scale"][:, None, None] + numbers["in_shift"][:, None, None]
    return _activate(pro.activation, x)


def _epilogue(epi: kernels.Epilogue, numbers: dict[str, Tensor], buffers: list, y: Tensor) -> Tensor:
    if epi.bias:
        y = y + numbers["bias"][:, None, None]
    residual = None
    if epi.residual is not None:
        residual = _strided(epi.residual, buffers)
        for dim in (1, 2):
            residual = residual.repeat_interleave(epi.residual_scale, dim)
    if residual is not None and epi.residual_first:
        y = y + residual
    if epi.slope is not None:
        y = torch.where(y > 0, y, y * numbers["slope"][:, None, None])
    y = _activate(epi.activation, y)
    if epi.gate is not None:
        y = y * _strided(epi.gate, buffers)
    return y + residual if residual is not None and not epi.residual_first else y


def _activate(kind: str, x: Tensor) -> Tensor:
    return x if kind == "none" else Activate(kind).evaluate(x[None])[0]
