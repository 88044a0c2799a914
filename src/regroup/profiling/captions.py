"""What an operator is called in a picture: its kind, and a few words such as "3x3, depthwise, stride 2"."""

from __future__ import annotations

import torch
from torch import Tensor

from regroup.ops.order import shuffle
from regroup.profiling.wiring import Step

_POOLS = {
    "avg_pool2d": "average",
    "max_pool2d_with_indices": "max",
    "_adaptive_avg_pool2d": "average",
    "adaptive_max_pool2d": "max",
    "mean": "average",
}
_SUMS = {"add": "sum", "sub": "sum", "mul": "product"}

_SAID = {"sum": "+", "product": "times", "index_add": "scatter, added up"}


def kind_of(step: Step) -> str:
    """Return what an operator does to channels: mixes them, pools, adds, resizes, or something else."""
    if step.operator == "convolution" or step.operator in ("mm", "addmm", "bmm"):
        return "convolution"
    if step.operator in _POOLS:
        return "pool"
    if step.operator in _SUMS and len(step.wires) > 1:
        return _SUMS[step.operator]
    return "resize" if step.operator.startswith("upsample") else "other"


def label_of(step: Step, kind: str, relation: Tensor) -> str:
    """Return what is written of an operator.

    Args:
        step: the operator.
        kind: of it, or "order" where it only moves channels.
        relation: bool (channels of the target, channels of all sources).
    """
    if kind == "convolution":
        return _convolution(step) if step.operator == "convolution" else "linear"
    if kind == "pool":
        return _pool(step)
    if kind == "order":
        return _order(relation)
    before, after = step.wires[0].source.size, step.target.size
    if kind == "resize" and len(before) == len(after):
        factors = [f"{a / b:.2g}" for a, b in zip(after, before, strict=True)]
        return f"up {'x'.join(factors if len(set(factors)) > 1 else factors[:1])}"
    return _SAID.get(kind, _SAID.get(step.operator, step.operator.strip("_").replace("_", " ")))


def _convolution(step: Step) -> str:
    named = step.arguments
    _, width, *kernel = named["weight"]
    groups = named["groups"]
    words = ["x".join(map(str, kernel))]
    if named["transposed"]:
        words.append("transposed")
    if groups > 1:
        words.append("depthwise" if width == 1 else f"{groups} groups")
    for name, usual in (("stride", 1), ("dilation", 1)):
        values = set(named[name])
        if values != {usual}:
            words.append(f"{name} {'x'.join(map(str, named[name] if len(values) > 1 else values))}")
    return ", ".join(words)


def _pool(step: Step) -> str:
    how, named = _POOLS[step.operator], step.arguments
    window = named.get("kernel_size")
    if not window:
        return f"{how} of all"
    sides = [window[0], window[-1]]
    stride = list(named["stride"] or window)
    said = f"{how} {'x'.join(map(str, sides))}"
    return said if stride[0] == sides[0] else f"{said}, stride {stride[0]}"


def _order(relation: Tensor) -> str:
    """Return what an order of channels is called."""
    taken, channels = relation.int().argmax(1), relation.shape[1]
    if len(taken) != channels or len(taken.unique()) != channels:
        return "gather"
    divisors = [g for g in range(2, channels) if channels % g == 0]
    found = next((g for g in divisors if torch.equal(taken, shuffle(channels, g))), None)
    return f"shuffle, {found} groups" if found else "order"
