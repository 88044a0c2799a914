"""Rules for layers with weights, and for those that look at neighbouring channels."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from regroup.ops.tags import Ints
from regroup.parallel.divided import Divided
from regroup.parallel.division import Division
from regroup.parallel.running import Running, divides
from regroup.parallel.wire import Scatter


@divides("conv1d", "conv2d", "conv3d")
def _convolution(
    run: Running,
    func: Any,
    input: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Groups stay on their devices; a dense convolution moves its inputs or its outputs."""
    if input.dim() != weight.dim() or isinstance(weight, Divided):
        return NotImplemented
    settings = stride, padding, dilation

    def local(x: Tensor, w: Tensor, b: Tensor | None, groups: int = 1) -> Tensor:
        return func(x, w, b, *settings, groups)

    if groups == 1:
        return _dense(run, local, input, weight, bias)
    outputs = run.size(weight, 0)
    rows = _rows_of_groups(run, input, weight, groups, outputs)
    if rows is None:
        return NotImplemented
    per_group, width = outputs // groups, input.shape[1] // groups
    touched = [_distinct(part // per_group) for part in rows.held]
    x = _entering(run, input, Division(tuple(touched)).expanded(width))
    w, b = run.part(weight, 0, rows), run.part(bias, 0, rows)
    y = local(x, w, b, len(touched[run.wire.rank]))
    _count(run, y, width * math.prod(weight.shape[2:]), rows.counts)
    return run.divided(y, rows)


def _distinct(numbers: Ints) -> Ints:
    """Return each number once, as they come."""
    return numbers[np.sort(np.unique(numbers, return_index=True)[1])]


def _rows_of_groups(run: Running, x: Tensor, weight: Tensor, groups: int, outputs: int) -> Division | None:
    """Return which outputs of a grouped convolution are made where; None if groups do not fit the devices."""
    split, devices, per_group = run.split_of(weight), run.wire.devices, outputs // groups
    if split is not None:
        return split.division
    if isinstance(x, Divided):
        staying = _staying(x.block.division, groups, x.shape[1] // groups)
        if staying is not None:
            return staying.expanded(per_group)
    if groups >= devices:
        return Division.even(outputs, devices, per_group)
    if devices % groups or per_group % (devices // groups):
        return None
    return Division.even(outputs, devices)


def _staying(division: Division, groups: int, width: int) -> Division | None:
    """Return on which devices the groups lie, if none is torn and no device has more than its share."""
    owner, place = division.owners
    of_group = owner.reshape(groups, width)
    if (of_group != of_group[:, :1]).any():
        return None
    counts = np.bincount(of_group[:, 0], minlength=division.devices)
    if not counts.all() or counts.max() > -(-groups // division.devices):
        return None
    order = np.lexsort((place.reshape(groups, width)[:, 0], of_group[:, 0]))
    return Division(tuple(order[of_group[order, 0] == d] for d in range(division.devices)))


def _entering(run: Running, x: Tensor, wanted: Division) -> Tensor:
    """Return those channels of the input that this device reads."""
    if not isinstance(x, Divided):
        return run.part(x, 1, wanted)
    if all(len(part) == x.shape[1] for part in wanted.held):
        return x.block.gathered(run.wire, run.layer)
    return run.at(x, wanted)


def _dense(run: Running, local: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    """Each device makes its own outputs of all inputs, or parts of all outputs of its own inputs.

    The first gathers the inputs, the second sums the outputs where they belong: what is smaller is moved.
    """
    outputs, devices = run.size(weight, 0), run.wire.devices
    split, size = run.split_of(weight), math.prod(weight.shape[2:])
    if outputs < devices or (x.shape[1] == 1 and not isinstance(x, Divided)):
        return NotImplemented if outputs < devices else _rows(run, local, x, weight, bias, size)
    if isinstance(x, Divided) and (split.dim == 1 if split else _sums_move_less(run, local, x, weight)):
        return _columns(run, local, x, weight, bias, size)
    return _rows(run, local, x, weight, bias, size)


def _rows(run: Running, local: Any, x: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> Divided:
    rows = Division.even(run.size(weight, 0), run.wire.devices)
    whole = x.block.gathered(run.wire, run.layer) if isinstance(x, Divided) else run.entered(x)
    y = local(whole, run.part(weight, 0, rows), run.part(bias, 0, rows))
    _count(run, y, x.shape[1] * size, rows.counts)
    return run.divided(y, rows)


def _columns(run: Running, local: Any, x: Divided, weight: Tensor, bias: Tensor | None, size: int) -> Divided:
    split = run.split_of(weight)
    columns = split.division if split else x.block.division
    partial = local(run.at(x, columns), run.part(weight, 1, columns), None)
    rows = Division.even(partial.shape[1], run.wire.devices)
    y = Scatter.apply(partial, run.wire, rows, run.layer)
    if bias is not None:
        y = y + run.part(bias, 0, rows).to(y.dtype).view(-1, *[1] * (y.dim() - 2))
    _count(run, partial, size, columns.counts, times=partial.shape[1])
    return run.divided(y, rows)


def _sums_move_less(run: Running, local: Any, x: Divided, weight: Tensor) -> bool:
    """Tell whether the outputs are smaller than the inputs; only while planning."""
    if 0 in x.block.division.counts:
        return False
    first = weight[:1, :1].to("meta")
    one = local(x.new_empty((1, 1, *x.shape[2:]), device="meta").as_subclass(Tensor), first, None)
    return weight.shape[0] * math.prod(one.shape[2:]) < math.prod(x.shape[1:])


def _count(run: Running, y: Tensor, each: int, counts: list[int], times: int = 1) -> None:
    """Note the MACs of each device: `each` for every number of `counts` channels."""
    if run.deciding is not None:
        pixels = y.shape[0] * math.prod(y.shape[2:]) * times
        before = run.macs.get(run.layer, [0] * len(counts))
        run.macs[run.layer] = [m + each * pixels * c for m, c in zip(before, counts, strict=True)]


@divides("linear")
def _linear(run: Running, func: Any, input: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    """As a dense 1x1 convolution, of vectors (N, C)."""
    if input.dim() != 2 or isinstance(weight, Divided):
        return NotImplemented
    return _dense(run, func, input, weight, bias)


@divides("batch_norm")
def _batch_norm(
    run: Running,
    func: Any,
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **settings: Any,
) -> Any:
    """Channel by channel: statistics stay where the channels are."""
    statistics = [t for t in (running_mean, running_var) if t is not None]
    if not isinstance(input, Divided) or (settings.get("training") and not all(map(run.is_own, statistics))):
        return NotImplemented
    split = next((s for s in map(run.split_of, (*statistics, weight)) if s), None)
    division = split.division if split else input.block.division
    parts = [run.part(t, 0, division) for t in (running_mean, running_var, weight, bias)]
    return run.divided(func(run.at(input, division), *parts, **settings), division)


@divides("local_response_norm")
def _response_norm(
    run: Running, func: Any, input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """Each device also gets the channels beside its own, as far as the norm looks."""
    x = input
    plain = x.block.division
    if not plain.is_plain:
        plain = Division.even(x.shape[1], run.wire.devices)
    bounds = np.cumsum([0, *plain.counts])
    wide = [
        np.arange(max(0, a - size // 2), min(x.shape[1], b + (size - 1) // 2)) if b > a else plain.held[d]
        for d, (a, b) in enumerate(pairwise(bounds))
    ]
    local = run.at(x, Division(tuple(wide)))
    me = run.wire.rank
    if local.shape[1]:
        local = func(local, size, alpha, beta, k).narrow(1, int(bounds[me] - wide[me][0]), plain.counts[me])
    return run.divided(local, plain)


@divides("dropout", "dropout1d", "dropout2d", "dropout3d")
def _dropout(
    run: Running, func: Any, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """All devices draw the same numbers for all channels, and keep those of their own."""
    if not isinstance(input, Divided):
        return NotImplemented
    if not training or p == 0:
        return input
    local, mine = input.block.local, input.block.division.held[run.wire.rank]
    noise = func(local.new_ones(input.shape), p, True)
    result = local * noise[:, mine]
    if inplace:
        return run.changed(input, result, input.block.division)
    return run.divided(result, input.block.division)


@divides(
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)),
    "pad",
    "interpolate",
    "upsample",
)
def _each_channel(run: Running, func: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """What works on each channel's map."""
    if not isinstance(input, Divided):
        return NotImplemented
    if func.__name__ == "pad":
        pad = args[0] if args else kwargs["pad"]
        if len(pad) > 2 * (input.dim() - 2):
            return NotImplemented
    local = input.block.local
    if local.shape[1]:
        result = func(local, *args, **kwargs)
        if not isinstance(result, Tensor):
            return NotImplemented
        return run.divided(result, input.block.division)
    shape = func(local.new_empty((local.shape[0], 1, *local.shape[2:])), *args, **kwargs).shape
    return run.divided(local.sum() + local.new_zeros((shape[0], 0, *shape[2:])), input.block.division)


@divides("mean", "sum", "amax", "amin", "std", "var")
def _reduction(run: Running, func: Any, input: Any, dim: Any = None, *flags: bool, **kwargs: Any) -> Any:
    """Over pixels."""
    if dim is None or "out" in kwargs or not isinstance(input, Divided):
        return NotImplemented
    names = ("unbiased", "keepdim") if func.__name__ in ("std", "var") else ("keepdim",)
    kwargs.update(zip(names, flags, strict=False))
    dims = [d % input.dim() for d in ([dim] if isinstance(dim, int) else dim)]
    if not dims or min(dims) < 2:
        return NotImplemented
    return run.divided(func(input.block.local, dims, **kwargs), input.block.division)
