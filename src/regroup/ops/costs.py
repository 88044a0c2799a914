"""How long passes of convolutions are expected to take: sums of what they count, at measured prices.

>>> call = Call((1, 8, 28, 28), (8, 1, 5, 5), (1, 1), (2, 2), (1, 1), 8)
>>> seconds("llvm", "weight_gradient", call) < seconds("aten", "weight_gradient", call)
True

The prices lie in `costs.json`, by vector unit, backend, pass, memory format and kind of convolution (what has
none for sound or video takes those of images); `benchmarks/costs.py` measures them, on one thread. They are
the same wherever a library is: the choice of a backend, and with it the last bits of a result, depends
neither on the number of threads nor on a clock.
"""

from __future__ import annotations

import functools
import json
import math
from operator import mul
from pathlib import Path

from regroup.ops.passes import Call, Pass

FILE = Path(__file__).with_name("costs.json")

COUNTS = ("call", "MAC", "number", "group of an image", "tap of a number")
"""What is paid for: a call, a multiply-add, a number read or written, a group of an image, a number's tap."""


def counts(call: Call) -> tuple[int, ...]:
    """Return how often each of `COUNTS` is paid for."""
    numbers = math.prod(call.x) + math.prod(call.y)
    taps = math.prod(call.weight[2:])
    return 1, call.macs, numbers, call.x[0] * call.groups, math.prod(call.y) * taps


def kind(call: Call) -> str:
    """Return which libraries have a way of its own for it: depthwise of up to 3 taps, or by width."""
    width = max(call.width_in, call.width_out)
    if width == 1:
        small = max(call.weight[2:]) <= 3 and max(call.dilation) == 1
        return "depthwise, small" if small else "depthwise"
    return next((f"width to {most}" for most in (2, 4, 8, 16) if width <= most), "wide")


def key(which: Pass, call: Call) -> str:
    """Return the name of a list of prices; libraries do sound and video in other ways than images."""
    name = f"{which}, {'channels_last' if call.channels_last else 'contiguous'}, {kind(call)}"
    return name + {1: ", sound", 2: "", 3: ", video"}[len(call.stride)]


def seconds(backend: str, which: Pass, call: Call) -> float:
    """Return the seconds that a backend is expected to take on one thread; infinity, if that is not known."""
    table, name = _prices().get(backend, {}), key(which, call)
    prices = table.get(name) or table.get(name.removesuffix(", sound").removesuffix(", video"))
    return math.inf if prices is None else sum(map(mul, prices, counts(call))) * 1e-9


@functools.cache
def _prices() -> dict[str, dict[str, list[float]]]:
    """Return the prices, in nanoseconds, on this machine's vector unit, or on the one most like it."""
    from regroup.kernels.machine.target import Target  # which asks LLVM

    table = json.loads(FILE.read_text())
    return table.get(Target.host().name) or table.get("AVX2") or table["AVX-512"]
