"""Who computes the passes of convolutions, who could, how long each is expected to take, and why.

>>> conv = nn.Conv2d(32, 32, 5, padding=2, groups=32)
>>> explain(conv, torch.zeros(1, 32, 14, 14), json=True)[0]["passes"]["weight_gradient"]["chosen"]
'llvm'
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import ParameterError
from regroup.ops.backends import backends, choose
from regroup.ops.functional import call_of
from regroup.ops.layers import CONVOLUTIONS
from regroup.ops.passes import PASSES, Call, Pass


def explain(model: nn.Module, x: Tensor, *, json: bool = False) -> str | list[dict[str, Any]]:
    """Return a table of the passes of each convolution: backends, expected times, why not; or its data.

    >>> print(explain(nn.Conv1d(64, 64, 1), torch.zeros(1, 64, 8)).splitlines()[2].strip())
    llvm       for groups of at most 16 channels, not 64

    This is what regroup's operator does: `regroup.accelerate` makes a model use it. Times are of one thread.

    Args:
        model: a convolution of PyTorch, or a module that holds some, ours or not; it runs once.
        x: its input.
        json: return a list of one entry a convolution, in the order in which they run: "layer", "problem",
            and "passes", which has for each pass who is "chosen" and for each of its "backends" the expected
            "seconds" (None where unknown) and "why_not" (None if it can).

    Raises:
        ParameterError: nothing in `model` is a convolution that runs.
    """
    found = [{"layer": name} | _explained(call) for name, call in calls_of(model, x)]
    if not found:
        raise ParameterError("model", type(model).__name__, "a convolution, or a module that runs some")
    return found if json else "\n".join(_text(entry) for entry in found)


def calls_of(model: nn.Module, x: Tensor) -> list[tuple[str, Call]]:
    """Return the name and the work of each convolution that `model` runs on `x`, in order."""
    found: list[tuple[str, Call]] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda conv, args, name=name: found.append((name, _call(conv, args[0])))
        )
        for name, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _call(conv: Any, x: Tensor) -> Call:
    x = x if x.dim() == conv.weight.dim() else x[None]
    padding = conv.padding
    if conv.padding_mode != "zeros":
        x = F.pad(x, conv._reversed_padding_repeated_twice, conv.padding_mode)
        padding = 0
    return call_of(x, conv.weight, conv.stride, padding, conv.dilation, conv.groups)


def _explained(call: Call) -> dict[str, Any]:
    passes = {which: {"chosen": choose(which, call).name, "backends": _able(which, call)} for which in PASSES}
    return {"problem": _problem(call), "passes": passes}


def _able(which: Pass, call: Call) -> dict[str, dict[str, Any]]:
    found = {}
    for name, backend in backends().items():
        reason = backend.why_not(which, call)
        seconds = math.inf if reason else backend.expected(which, call)
        found[name] = {"why_not": reason, "seconds": seconds if math.isfinite(seconds) else None}
    return found


def _problem(call: Call) -> str:
    def times(sizes: tuple[int, ...]) -> str:
        return "x".join(map(str, sizes))

    more = [f"{call.groups} groups"] if call.groups > 1 else []
    for name in ("stride", "padding", "dilation"):
        sizes = getattr(call, name)
        if set(sizes) != {0 if name == "padding" else 1}:
            more.append(f"{name} {times(sizes)}")
    layout = "channels last" if call.channels_last else "contiguous"
    dtype = str(call.dtype).removeprefix("torch.")
    what = [f"{times(call.x)} -> {times(call.y)}", f"kernel {times(call.weight[2:])}", *more]
    return ", ".join([*what, f"{call.macs / 1e6:,.1f} M MACs", dtype, layout, call.device])


def _text(entry: dict[str, Any]) -> str:
    lines = [": ".join(filter(None, (entry["layer"], entry["problem"])))]
    for which, row in entry["passes"].items():
        lines.append(f"  {which.replace('_', ' ')}: {row['chosen']}")
        for name, told in row["backends"].items():
            seconds, why_not = told["seconds"], told["why_not"]
            time = "not estimated" if seconds is None else f"{1e3 * seconds:9.3f} ms expected"
            lines.append(f"    {name:<10} {why_not or time}")
    return "\n".join(lines)
