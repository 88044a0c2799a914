"""How long the steps of a compiled network take, and whether that can be believed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from regroup.engine.running.plan import NativeSegment

_LEAST, _MOST, _SECONDS = 16, 2000, 0.3
"""Runs of each step, and how long those are gone on with that are too short for fewer."""

_CLEAR = 1.1
"""Times the least time of a call that does nothing: a step that takes less is not measured."""

BUSY = 0.9
"""Share of the time in which the calling thread ran, below which the machine is called busy."""

NOISE = 0.1
"""Spread above which it is told."""


@dataclass(frozen=True)
class StepTime:
    """The least time of a step, in seconds; 0 where it was too short to be told from that of a call.

    `most` is with the call, so that the step itself cannot take longer.
    """

    seconds: float
    most: float


@dataclass(frozen=True)
class CallTime:
    """Time of a call in seconds: the least, quartiles, and the share in which the calling thread ran."""

    least: float = 0.0
    low: float = 0.0
    median: float = 0.0
    high: float = 0.0
    running: float = 1.0

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def step_times(segment: NativeSegment, threads: int) -> list[StepTime]:
    """Return the time of each step on one image of zeros, the least of some runs.

    All take turns, not one again and again: some write over what they read. It goes on until each can be told
    from a call that does nothing, or some tenths of a second are over.
    """
    run = segment.step_timer([torch.zeros(1, *value.shape) for value in segment.inputs], threads)
    ranges = [(0, 0), *((step, step + 1) for step in range(len(segment.work)))]
    best, end = [float("inf")] * len(ranges), time.perf_counter() + _SECONDS
    for turn in range(_MOST):
        for i, steps in enumerate(ranges):
            best[i] = min(best[i], _seconds(partial(run, *steps)))
        clear = min(best[1:], default=0.0) > _CLEAR * best[0]
        if turn + 1 >= _LEAST and (clear or time.perf_counter() > end):
            break
    call, *times = best
    return [StepTime(one - call if one > _CLEAR * call else 0.0, one) for one in times]


def call_time(run: Callable[[], object]) -> CallTime:
    """Return the time of a call."""
    run()
    start, began = time.perf_counter(), time.thread_time()
    samples = [_seconds(run) for _ in range(_LEAST)]
    running = (time.thread_time() - began) / max(time.perf_counter() - start, 1e-9)
    low, median, high = statistics.quantiles(samples, n=4)
    return CallTime(min(samples), low, median, high, min(1.0, running))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
