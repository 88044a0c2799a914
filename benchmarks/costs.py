"""Measures the prices by which backends are chosen, and writes them to src/regroup/ops/costs.json.

python -m benchmarks.costs
REGROUP_TARGET=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m benchmarks.costs

Random convolutions, on one thread, in processor time (which a neighbour's load disturbs less), every
contender in turn, the least of some bursts. Prices are those, none negative, of least relative error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from random import Random

import numpy as np
import torch
from scipy.optimize import nnls

from regroup.kernels.machine.target import Target
from regroup.ops import costs
from regroup.ops.backends import backends
from regroup.ops.passes import PASSES, Call, Pass

_BURSTS, _SECONDS = 3, 0.003
_MOST_MACS = 40e6


def problems(count: int, dims: int) -> list[Call]:
    """Return convolutions of `dims` dimensions, of every kind and in the formats there are."""
    return {1: sound, 2: images, 3: video}[dims](count)


def sound(count: int) -> list[Call]:
    """Return convolutions of sequences: long kernels, many steps."""
    rng, found = Random("costs of sound"), []
    while len(found) < count:
        width = rng.choice((1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32))
        channels, images = rng.choice((64, 128, 256, 512)), rng.choice((1, 2, 8))
        k = rng.choice((3, 3, 5, 9, 15, 31, 65) if width == 1 else (1, 3, 9, 15, 31))
        shapes = (images, channels, rng.choice((50, 200, 500, 1000, 2000))), (channels, width, k)
        call = Call(*shapes, (rng.choice((1, 1, 2)),), (k // 2,), (1,), channels // width)
        if call.macs <= _MOST_MACS:
            found.append(call)
    return found


def video(count: int) -> list[Call]:
    """Return convolutions of clips, over space, time or both."""
    rng, found = Random("costs of video"), []
    while len(found) < count:
        width = rng.choice((1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32))
        channels, size = rng.choice((32, 64, 128)), rng.choice((7, 14, 14, 28))
        kernel = rng.choice(((3, 3, 3), (3, 3, 3), (1, 3, 3), (3, 1, 1), (5, 3, 3), (1, 5, 5)))
        stride, padding = rng.choice(((1, 1, 1), (1, 1, 1), (1, 2, 2))), tuple(k // 2 for k in kernel)
        shapes = (
            (rng.choice((1, 2)), channels, rng.choice((4, 8, 16)), size, size),
            (channels, width, *kernel),
        )
        for last in (False, True):
            call = Call(*shapes, stride, padding, (1, 1, 1), channels // width, channels_last=last)
            if call.macs <= _MOST_MACS:
                found.append(call)
    return found


def images(count: int) -> list[Call]:
    """Return convolutions of images."""
    rng, found = Random("costs"), []
    while len(found) < count:
        width = rng.choice((1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32))
        groups = max(1, rng.choice((32, 64, 120, 128, 144, 256)) // width)
        k, stride = rng.choice((3, 3, 3, 5, 7, 9) if width == 1 else (1, 3, 3, 5)), rng.choice((1, 1, 2))
        size, images = rng.choice((7, 14, 14, 28, 28, 56)), rng.choice((1, 2, 4, 8))
        shapes = (images, groups * width, size, size), (groups * width, width, k, k)
        for last in (False, True):
            call = Call(*shapes, (stride,) * 2, (k // 2,) * 2, (1, 1), groups, torch.float32, "cpu", last)
            if call.macs <= _MOST_MACS:
                found.append(call)
    return found


def runs(name: str, call: Call) -> dict[Pass, Callable[[], object]]:
    """Return the passes of a backend on random numbers."""
    last = torch.channels_last if len(call.stride) == 2 else torch.channels_last_3d
    who, layout = backends()[name], last if call.channels_last else torch.contiguous_format
    x, g = (torch.randn(shape).contiguous(memory_format=layout) for shape in (call.x, call.y))
    weight = torch.randn(call.weight)
    return {
        "forward": partial(who.forward, x, weight, None, call),
        "input_gradient": partial(who.input_gradient, g, weight, call),
        "weight_gradient": partial(who.weight_gradient, x, g, call),
    }


def least(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the processor seconds of one call of each."""
    found = {name: float("inf") for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(_BURSTS):
        for name, call in contenders.items():
            start, done = time.process_time(), 0
            while time.process_time() - start < _SECONDS or not done:
                call()
                done += 1
            found[name] = min(found[name], (time.process_time() - start) / done)
    return found


def measure(calls: list[Call]) -> dict[str, dict[str, list[tuple[Call, float]]]]:
    """Return what was measured, by backend and list of prices."""
    found: dict[str, dict[str, list[tuple[Call, float]]]] = {"llvm": {}, "aten": {}}
    for i, call in enumerate(calls):
        able = {name: runs(name, call) for name in found if backends()[name].why_not("forward", call) is None}
        for which in PASSES:
            for name, spent in least({name: passes[which] for name, passes in able.items()}).items():
                found[name].setdefault(costs.key(which, call), []).append((call, spent))
        print(f"\r{i + 1} of {len(calls)}", end="", flush=True)
    print()
    return found


def fit(rows: list[tuple[Call, float]]) -> list[float]:
    """Return nanoseconds for each of `costs.COUNTS`."""
    counted = np.array([costs.counts(call) for call, _ in rows], float)
    spent = np.array([seconds for _, seconds in rows]) * 1e9
    scale = counted.max(0)
    prices, _ = nnls(counted / scale / spent[:, None], np.ones(len(rows)))
    return [float(f"{price:.4g}") for price in prices / scale]


def report(measured: dict[str, dict[str, list[tuple[Call, float]]]], table: dict) -> None:
    """Print how far expected times are off, and what the choice that they make loses."""
    for name, lists in measured.items():
        for key, rows in sorted(lists.items()):
            off = [np.dot(table[name][key], costs.counts(call)) * 1e-9 / spent for call, spent in rows]
            worst = f"{min(off):.2f} to {max(off):.2f}"
            print(f"{name:5} {key:50} {len(rows):3} problems: expected / measured {worst}")
    for key, rows in sorted(measured["llvm"].items()):
        lost = []
        for (call, ours), (_, theirs) in zip(rows, measured["aten"][key], strict=True):
            expected = [np.dot(table[name][key], costs.counts(call)) for name in ("llvm", "aten")]
            chosen = ours if expected[0] <= expected[1] else theirs
            lost.append(chosen / min(ours, theirs) - 1)
        wrong = sum(loss > 0.05 for loss in lost)
        print(f"{key:50} more than 5 % lost in {wrong} of {len(lost)}, {max(lost):.0%} at most")


def main() -> None:
    """Measure, fit and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--dims", type=int, nargs="+", choices=(1, 2, 3), default=[1, 2, 3])
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured = measure([call for dims in args.dims for call in problems(args.count, dims)])
    prices = {
        name: {key: fit(rows) for key, rows in sorted(lists.items())} for name, lists in measured.items()
    }
    report(measured, prices)
    table = json.loads(costs.FILE.read_text()) if costs.FILE.exists() else {}
    known = table.setdefault(Target.host().name, {})
    for name, lists in prices.items():
        known[name] = {**known.get(name, {}), **lists}
    costs.FILE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
