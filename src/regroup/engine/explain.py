"""What a compiled network does, step by step: kernel, shape, tile, time, speed, and what PyTorch does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regroup.engine.describe import describe_problem
from regroup.engine.plan import NativeSegment, Plan, TorchSegment
from regroup.kernels.machine.threads import usable, why_not_more
from regroup.kernels.program.peak import peak_gflops

_REPEATS = 15
_SIZES_SHOWN = 16


def explain(plan: Plan, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Return the steps as data; times are of one image, in microseconds, the least of some runs.

    Args:
        plan: a prepared network.
        inputs: as many images as it was recorded with.
    """
    threads = usable(torch.get_num_threads())
    peak = peak_gflops() * threads
    segments = [_native(s, peak) if isinstance(s, NativeSegment) else _torch(s) for s in plan.segments]
    # a model left to PyTorch is not run: that might change it
    total = _least(lambda: plan.run(inputs)) if plan.capture is not None else 0.0
    steps = [step for segment in segments for step in segment.get("steps", ())]
    macs = sum(part["macs"] for step in steps for part in step["parts"])
    images = max(plan.batch, 1)
    return {
        "threads": threads,
        "why_threads": why_not_more(),
        "peak_gflops": peak,
        "why_pytorch": plan.why,
        "batch_sizes": list(plan.batch_sizes),
        "segments": segments,
        "total": _speed(macs, total / images, peak)
        | {"steps": len(steps), "macs": macs, "arena_bytes": _arena_bytes(plan)},
    }


def _native(segment: NativeSegment, peak: float) -> dict[str, Any]:
    steps = []
    for work, choices, seconds in zip(segment.work, segment.program.choices, _times(segment), strict=True):
        parts = [
            {
                "work": name,
                "kernel": choice.template,
                "tile": choice.tile,
                "shape": describe_problem(problem),
                "macs": problem.macs,
            }
            for (name, problem), choice in zip(work, choices, strict=True)
        ]
        steps.append({"parts": parts} | _speed(sum(p["macs"] for p in parts), seconds, peak))
    return {"runs": "native", "steps": steps, "arena_bytes": 4 * segment.arena_floats}


def _times(segment: NativeSegment) -> list[float]:
    """Return the seconds of each step.

    All take turns, not one again and again: some write over what they read.
    """
    run = segment.step_timer([torch.zeros(1, *value.shape) for value in segment.inputs])
    call = _least(lambda: run(0, 0))
    best = [float("inf")] * len(segment.work)
    for _ in range(1 + _REPEATS):
        for step in range(len(best)):
            best[step] = min(best[step], _seconds(partial(run, step, step + 1)))
    return [max(seconds - call, 1e-9) for seconds in best]


def _torch(segment: TorchSegment) -> dict[str, Any]:
    return {"runs": "PyTorch", "operators": [{"why": why} for why in segment.reasons.values()]}


def _speed(macs: int, seconds: float, peak: float) -> dict[str, float]:
    gflops = 2 * macs / seconds / 1e9 if macs else 0.0
    return {"microseconds": seconds * 1e6, "gflops": gflops, "percent_of_peak": 100 * gflops / peak}


def _arena_bytes(plan: Plan) -> int:
    return max((4 * s.arena_floats for s in plan.segments if isinstance(s, NativeSegment)), default=0)


def _least(run: Callable[[], object]) -> float:
    return min(_seconds(run) for _ in range(1 + _REPEATS))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def table(data: dict[str, Any]) -> str:
    """Return the data of `explain` as text of at most 120 columns."""
    lines = [f"{'us':>7} {'GFLOP/s':>8} {'% peak':>6}  {'work':<28} {'shape':<44} kernel, tile"]
    if data["why_threads"]:
        lines.append(data["why_threads"])
    if data["why_pytorch"]:
        lines.append(f"all of it runs in PyTorch: {data['why_pytorch']}")
    for segment in data["segments"]:
        if segment["runs"] == "PyTorch":
            lines += [f"{'':>23}  PyTorch: {operator['why']}" for operator in segment["operators"]]
        for step in segment.get("steps", ()):
            lines += _rows(step)
    total = data["total"]
    if data["segments"]:
        sizes = data["batch_sizes"]
        shown = ", ".join(map(str, sizes[:_SIZES_SHOWN])) + (", ..." if len(sizes) > _SIZES_SHOWN else "")
        lines.append(f"recorded, and the same, at batch sizes {shown}")
    lines.append(
        f"{total['microseconds']:7.0f} {total['gflops']:8.1f} {total['percent_of_peak']:6.1f}  "
        f"{total['steps']} steps, {total['macs'] / 1e6:,.0f} M MACs, {data['threads']} threads, "
        f"arena {total['arena_bytes'] / 2**20:.2f} MiB, peak {data['peak_gflops']:.0f} GFLOP/s"
    )
    return "\n".join(lines)


def _rows(step: dict[str, Any]) -> list[str]:
    rows = []
    for i, part in enumerate(step["parts"]):
        speed = f"{step['gflops']:8.1f} {step['percent_of_peak']:6.1f}" if step["gflops"] else " " * 15
        left = f"{step['microseconds']:7.1f} {speed}" if i == 0 else f"{'|':>7}{'':16}"
        rows.append(f"{left}  {part['work']:<28} {part['shape']:<44} {part['kernel']}, {part['tile']}")
    return rows
