"""What a compiled network does, step by step: kernel, shape, tile, time, speed, and what PyTorch does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from torch import Tensor

from regroup.engine.passes import Change
from regroup.engine.running.plan import NativeSegment, Plan, TorchSegment, how_many
from regroup.engine.running.timing import BUSY, NOISE, CallTime, StepTime, call_time, step_times
from regroup.kernels import problems as kernels
from regroup.kernels.machine.threads import why_not_more
from regroup.kernels.problems import Linear, Problem
from regroup.kernels.problems.dynamic import DynamicConv as DynamicProblem
from regroup.kernels.problems.view import View
from regroup.kernels.program.peak import peak_gflops

_WINOGRAD = 16 / 36
"""Share of the definition's multiplications that F(2x2, 3x3) executes."""

_SIZES_SHOWN = 16


def explain(plan: Plan, inputs: Sequence[Tensor], threads: int | None = None) -> dict[str, Any]:
    """Return the steps as data; times are of one image, in microseconds, the least of some runs.

    A time of 0 is none: the step is too short to be told from a call, or the machine was too busy. GFLOP/s
    are those of the definition; the share of the peak is that of what is executed in floats. What a step was
    seen to do in a time that can only be too long, the machine can do: the peak is at least that.

    Args:
        plan: a prepared network.
        inputs: as many images as it was recorded with.
        threads: of native code; as many as PyTorch has by default.
    """
    if plan.capture is None and plan.parts is not None:
        return _in_parts(plan, threads)
    threads = how_many(threads)
    # a model left to PyTorch is not run: that might change it
    total = call_time(lambda: plan.run(inputs, threads)) if plan.capture is not None else CallTime()
    times = {id(s): step_times(s, threads) for s in plan.segments if isinstance(s, NativeSegment)}
    peak = max([peak_gflops() * threads, *_seen(plan, times)])
    segments = [
        _native(segment, peak, times[id(segment)]) if isinstance(segment, NativeSegment) else _torch(segment)
        for segment in plan.segments
    ]
    steps = [step for segment in segments for step in segment.get("steps", ())]
    macs = sum(part["macs"] for step in steps for part in step["parts"])
    images = max(plan.batch, 1)
    return _common(plan, threads) | {
        "peak_gflops": peak,
        "passes": [_change(change) for change in plan.changes],
        "segments": segments,
        "total": _speed(macs, sum(step["executed_macs"] for step in steps), total.least / images, peak)
        | {"steps": len(steps), "macs": macs, "arena_bytes": _arena_bytes(plan)}
        | {"executed_macs": sum(step["executed_macs"] for step in steps)}
        | {"spread": total.spread, "running": total.running},
    }


def _common(plan: Plan, threads: int) -> dict[str, Any]:
    return {
        "threads": threads,
        "why_threads": why_not_more(),
        "why_pytorch": plan.why,
        "batch_sizes": list(plan.batch_sizes),
    }


def _in_parts(plan: Plan, threads: int | None) -> dict[str, Any]:
    """Return the steps of the modules that run natively, each as it was called last; the sum is theirs."""
    assert plan.parts is not None
    found = {name: explain(of, inputs, threads) for name, of, inputs in plan.parts.shown()}
    totals = [data["total"] for data in found.values()]
    peak = max((data["peak_gflops"] for data in found.values()), default=peak_gflops() * how_many(threads))
    names = ("microseconds", "steps", "macs", "executed_macs")
    whole = {name: sum(total[name] for total in totals) for name in names}
    speed = _speed(whole["macs"], whole.pop("executed_macs"), whole["microseconds"] / 1e6, peak)
    arena = max((total["arena_bytes"] for total in totals), default=0)
    worst = {
        "spread": max((total["spread"] for total in totals), default=0.0),
        "running": min((total["running"] for total in totals), default=1.0),
    }
    return _common(plan, how_many(threads)) | {
        "peak_gflops": peak,
        "passes": [],
        "segments": [one | {"module": name} for name, data in found.items() for one in data["segments"]],
        "total": whole | speed | {"arena_bytes": arena} | worst,
    }


def _seen(plan: Plan, times: dict[int, list[StepTime]]) -> Iterator[float]:
    """Yield the GFLOP/s that steps had at least."""
    for segment in plan.segments:
        if isinstance(segment, NativeSegment):
            steps = zip(segment.work, segment.program.choices, times[id(segment)], strict=True)
            yield from (2 * _executed(w, c) / t.most / 1e9 for w, c, t in steps)


def _executed(work: Sequence, choices: Sequence) -> float:
    """Return the multiply-adds of floats that a step executes, of those that its parts are defined by."""
    return sum(
        problem.macs * (_WINOGRAD if choice.template == "winograd" else 1)
        for (_, problem), choice in zip(work, choices, strict=True)
        if not isinstance(problem, kernels.IntegerConv)
    )


def _native(segment: NativeSegment, peak: float, times: list[StepTime]) -> dict[str, Any]:
    steps = []
    for work, choices, time in zip(segment.work, segment.program.choices, times, strict=True):
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
        macs, executed = sum(part["macs"] for part in parts), _executed(work, choices)
        least = 2 * executed / peak / 1e9  # what is subtracted for the call may be too much
        seconds = max(time.seconds, least) if time.seconds else 0.0
        steps.append({"parts": parts, "executed_macs": executed} | _speed(macs, executed, seconds, peak))
    return {"runs": "native", "steps": steps, "arena_bytes": 4 * segment.arena_floats}


def _torch(segment: TorchSegment) -> dict[str, Any]:
    return {"runs": "PyTorch", "operators": [{"why": why} for why in segment.reasons.values()]}


def _speed(macs: int, executed: float, seconds: float, peak: float) -> dict[str, float]:
    gflops, done = (2 * count / seconds / 1e9 if count and seconds else 0.0 for count in (macs, executed))
    return {"microseconds": seconds * 1e6, "gflops": gflops, "percent_of_peak": min(100.0, 100 * done / peak)}


def _arena_bytes(plan: Plan) -> int:
    return max((4 * s.arena_floats for s in plan.segments if isinstance(s, NativeSegment)), default=0)


def _change(change: Change) -> dict[str, Any]:
    return {
        "name": change.name,
        "nodes": change.nodes,
        "gone": dict(sorted(change.gone.items())),
        "new": dict(sorted(change.new.items())),
    }


def passes_table(data: dict[str, Any]) -> str:
    """Return what each pass did, as text: how many nodes there are after it, which are gone and which new."""
    rows = [f"{'nodes':>5}  {'pass':<24} {'gone':<44} new"]
    for change in data["passes"]:
        gone, new = ([f"{n} {word}" for word, n in change[key].items()] for key in ("gone", "new"))
        for i, (old, made) in enumerate(zip_longest(gone, new, fillvalue="")):
            left = f"{change['nodes']:>5}  {change['name']:<24}" if i == 0 else " " * 31
            rows.append(f"{left} {old:<44} {made}".rstrip())
    return "\n".join(rows)


HEADS = ("step", "us", "GFLOP/s", "% peak", "work", "shape", "kernel, tile")
"""Columns of the table of steps."""


def table(data: dict[str, Any]) -> str:
    """Return the data of `explain` as text of at most 120 columns."""
    lines = [_line(HEADS), *before(data)]
    for cells, why in rows(data):
        lines.append(_line(cells) if why is None else f"{'':>28}  PyTorch: {why}")
    return "\n".join([*lines, *after(data)])


def _line(cells: Sequence[str]) -> str:
    step, time, speed, share, work, shape, kernel = cells
    return f"{step:>4} {time:>7} {speed:>8} {share:>6}  {work:<26} {shape:<42} {kernel}"


def rows(data: dict[str, Any]) -> Iterator[tuple[list[str], str | None]]:
    """Yield the cells of each row; and, for what PyTorch runs, why that is."""
    number, module = 0, None
    for segment in data["segments"]:
        if segment.get("module") != module:
            module = segment["module"]
            yield ["", "", "", "", module, "", ""], f"calls {module}, which runs as follows"
        if segment["runs"] == "PyTorch":
            for operator in segment["operators"]:
                yield ["", "", "", "", "PyTorch", "", ""], operator["why"]
        for step in segment.get("steps", ()):
            for i, part in enumerate(step["parts"]):
                left = [str(number), *_figures(step)] if i == 0 else ["", "|", "", ""]
                yield [*left, part["work"], part["shape"], f"{part['kernel']}, {part['tile']}"], None
            number += 1


def _figures(step: dict[str, Any]) -> list[str]:
    time = f"{step['microseconds']:.1f}" if step["microseconds"] else "short"
    speed = [f"{step['gflops']:.1f}", f"{step['percent_of_peak']:.1f}"] if step["gflops"] else ["", ""]
    return [time, *speed]


def before(data: dict[str, Any]) -> list[str]:
    """Return the lines that stand before the steps."""
    why = data["why_pytorch"]
    lines = [data["why_threads"]] if data["why_threads"] else []
    what = "its modules run one by one" if data["segments"] else "all of it runs in PyTorch"
    return [*lines, f"{what}: {why}"] if why else lines


def after(data: dict[str, Any]) -> list[str]:
    """Return the lines that stand below the steps: sizes, the whole, what is not to be believed."""
    total, lines = data["total"], []
    sizes = [", ".join("x".join(map(str, shape)) for shape in form) for form in data.get("sizes", ())]
    if len(sizes) > 1:
        lines.append(f"compiled for inputs of {'; '.join(sizes)}")
    if data["segments"]:
        sizes = data["batch_sizes"]
        shown = ", ".join(map(str, sizes[:_SIZES_SHOWN])) + (", ..." if len(sizes) > _SIZES_SHOWN else "")
        lines.append(f"recorded, and the same, at batch sizes {shown}")
    lines.append(
        f"{'all':>4} {total['microseconds']:7.0f} {total['gflops']:8.1f} {total['percent_of_peak']:6.1f}  "
        f"{total['steps']} steps, {total['macs'] / 1e6:,.0f} M MACs, {data['threads']} threads, "
        f"arena {total['arena_bytes'] / 2**20:.2f} MiB, peak {data['peak_gflops']:.0f} GFLOP/s"
    )
    return [*lines, *doubts(data)]


def doubts(data: dict[str, Any]) -> list[str]:
    """Return the lines that say what of the times is not to be believed."""
    total, lines = data["total"], []
    if any(not step["microseconds"] for segment in data["segments"] for step in segment.get("steps", ())):
        lines.append("short: too short to be told from a call that does nothing")
    if total["spread"] > NOISE:
        lines.append(f"all: the least of some runs; half of them lie {100 * total['spread']:.0f} % apart")
    if total["running"] < BUSY:
        lines.append(f"the machine was busy: this thread ran {100 * total['running']:.0f} % of the time")
    return lines


def describe_problem(problem: Problem) -> str:
    """Return the shape of a problem, like '64x56x56 -> 128x28x28, 3x3 / 2, 4 groups'."""
    if isinstance(problem, kernels.Chain):
        return " -> ".join(map(_size, (problem.x, *(link.y for link in problem.links))))
    if isinstance(problem, kernels.IntegerConv):
        problem = problem.of_numbers
    text = f"{_size(problem.x)} -> {_size(problem.y)}"
    if isinstance(problem, Linear):
        return f"{problem.in_channels} -> {problem.y.channels}"
    kernel, stride = getattr(problem, "kernel_size", None), getattr(problem, "stride", (1, 1))
    if kernel is not None:
        text += f", {kernel[0]}x{kernel[1]}" + (f" / {stride[0]}" if stride != (1, 1) else "")
    if isinstance(problem, kernels.Conv) and problem.groups > 1:
        text += f", {problem.groups} groups"
    if isinstance(problem, DynamicProblem):
        text += f", {problem.heads} heads of {problem.kept}"
    return text


def _size(view: View) -> str:
    if (view.height, view.width) == (1, 1):
        return str(view.channels)
    return f"{view.channels}x{view.height}x{view.width}"
