"""The time that each module of a network takes while the network runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from regroup.profiling.clock import Timing
from regroup.profiling.where import hook_after, hook_before


def layer_times(
    model: nn.Module,
    call: Callable[[], object],
    *,
    seconds: float = 1.0,
    samples: tuple[int, int] = (7, 200),
    device: torch.device | str = "cpu",
) -> dict[str, Timing]:
    """Return how long each module takes, with all that is inside it, in the network rather than alone.

    In the network a layer finds in the caches what its predecessor left there, and nothing else. A module
    that runs several times has the sum. Two clock readings (about a microsecond on a CPU) are part of each
    module's time, so that the parts of a network of many tiny layers add up to more than `clock.measure`
    says of the whole.

    Args:
        model: the network whose modules are timed.
        call: runs it once, already warm.
        seconds: to spend.
        samples: least and greatest number of runs, whatever `seconds` says.
        device: on a CUDA device the device's own events are read, after each run.
    """
    mark = _cuda_mark if torch.device(device).type == "cuda" else time.perf_counter
    runs: list[dict[str, float]] = []
    spans: list[tuple[str, object, object]] = []
    running: list[object] = []
    handles = []
    for name, module in model.named_modules():
        # the module's own hooks are inside, so that both readings of one module are nested in its parent's
        handles.append(hook_before(module, lambda *_: running.append(mark()), prepend=True))
        handles.append(hook_after(module, lambda *_, name=name: spans.append((name, running.pop(), mark()))))
    try:
        end = time.perf_counter() + seconds
        while len(runs) < samples[1] and (len(runs) < samples[0] or time.perf_counter() < end):
            spans.clear()
            call()
            runs.append(_lengths(spans))
    finally:
        for handle in handles:
            handle.remove()
    return {name: Timing(tuple(run.get(name, 0.0) for run in runs)) for name in runs[0]}


def _cuda_mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _lengths(spans: list) -> dict[str, float]:
    """Return the seconds spent in each module, from its (name, start, end)."""
    lengths: dict[str, float] = {}
    if spans and not isinstance(spans[0][1], float):
        torch.cuda.synchronize()
    for name, start, end in spans:
        length = end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3
        lengths[name] = lengths.get(name, 0.0) + length
    return lengths
