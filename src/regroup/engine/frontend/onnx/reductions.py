"""ONNX's reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from regroup.engine.frontend.onnx.call import OPERATORS, Call, reads


def _prod(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCE: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _prod,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
}


def _reduce(call: Call, function: Callable[[Tensor, list[int], bool], Tensor]) -> Tensor:
    x, axes, keep = call[0], call.integers("axes", 1), call.flag("keepdims", True)
    if not axes:
        if (call.flag("noop_with_empty_axes") and axes is not None) or call.flag("noop_with_empty_axes"):
            return x
        axes = list(range(x.dim()))
    return function(x, [axis % x.dim() for axis in axes], keep) if x.dim() else x


for _name, _function in _REDUCE.items():
    OPERATORS[_name] = lambda call, function=_function: _reduce(call, function)


@reads("ArgMax", "ArgMin")
def _arg(call: Call) -> Tensor:
    function = torch.argmax if call.name == "ArgMax" else torch.argmin
    x, axis, last = call[0], call.number("axis", 0), call.flag("select_last_index")
    found = function(x.flip(axis) if last else x, axis, keepdim=call.flag("keepdims", True))
    return x.shape[axis] - 1 - found if last else found


@reads("TopK")
def _top_k(call: Call) -> Sequence[Tensor]:
    (count,) = call.integers("k", 1) or [1]
    axis = call.number("axis", -1)
    # of equal numbers the first; torch.topk takes any
    ordered = call[0].sort(dim=axis, descending=call.flag("largest", True), stable=True)
    return [part.narrow(axis, 0, count) for part in ordered]


@reads("CumSum")
def _cumsum(call: Call) -> Tensor:
    axis = int(call[1].item())
    x = call[0].flip(axis) if call.flag("reverse") else call[0]
    sums = x.cumsum(axis) - (x if call.flag("exclusive") else 0)
    return sums.flip(axis) if call.flag("reverse") else sums
