"""The clock: how long something takes, how sure that is, and which of two things is faster.

>>> timing = measure(lambda: sum(range(1000)), seconds=0.02)
>>> timing.low <= timing.median <= timing.high
True

Everything that is timed in regroup is timed here: warmed up, in many short samples, several functions taking
turns (A B A B) so that a slow spell of the machine hits all of them alike. Medians and quartiles are told,
never means: one interruption must not move the figure.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from regroup.errors import ParameterError

QUIET, NOISY = 0.05, 0.25
"""Spread (interquartile range over median) up to which a timing is called quiet, and from which unusable."""


@dataclass(frozen=True)
class Timing:
    """How long one call took, in seconds: `samples` in the order in which they were taken."""

    samples: tuple[float, ...]
    calls: int = 1
    """Calls that one sample is the mean of; more than one only for functions too short to be timed alone."""
    running: float = 1.0
    """Share of the time in which the calling thread ran; below 1 where it waited, or others had its core."""

    @property
    def median(self) -> float:
        """Half of the samples took longer."""
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        """First quartile: a quarter of the samples took less."""
        return _quantile(self.samples, 0.25)

    @property
    def high(self) -> float:
        """Third quartile: a quarter of the samples took more."""
        return _quantile(self.samples, 0.75)

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0

    @property
    def verdict(self) -> str:
        """How far the median can be trusted: 'quiet', 'noisy', or 'unusable'.

        Under a steady load all samples are equally wrong: a thread that did not always run is noisy too.
        """
        if self.spread > NOISY or self.running < 0.5:
            return "unusable"
        return "noisy" if self.spread > QUIET or self.running < 0.95 else "quiet"

    def __str__(self) -> str:
        text = f"{readable(self.median)} ({readable(self.low)} .. {readable(self.high)})"
        return text if self.verdict == "quiet" else f"{text}, {self.verdict}"


@dataclass(frozen=True)
class Ratio:
    """Time of one function over that of another, from samples taken in turns."""

    median: float
    low: float
    """Lower end of a confidence interval of at least 95 % for the median; 0 with fewer than six samples."""
    high: float
    """Upper end; infinite with fewer than six samples."""

    @property
    def verdict(self) -> str:
        """Say 'slower' or 'faster' where the interval excludes 1, otherwise 'no difference shown'."""
        if self.low > 1:
            return "slower"
        return "faster" if self.high < 1 else "no difference shown"


def batch_of(images: torch.Tensor, count: int) -> torch.Tensor:
    """Return so many images to be timed: where there are fewer, the same again.

    >>> batch_of(torch.arange(3), 5).tolist()
    [0, 1, 2, 0, 1]
    """
    return images[torch.arange(count, device=images.device) % len(images)]


def measure(
    function: Callable[[], object],
    *,
    seconds: float = 1.0,
    warmup: float = 0.2,
    device: torch.device | str = "cpu",
    now: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Return how long a call of `function` takes. See `measure_in_turns` for the arguments."""
    turns = measure_in_turns({"": function}, seconds=seconds, warmup=warmup, device=device, now=now)
    return turns[""]


def measure_in_turns(
    functions: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    warmup: float = 0.2,
    samples: tuple[int, int] = (7, 1000),
    device: torch.device | str = "cpu",
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Return how long each function takes, one sample of each in turn.

    Args:
        functions: to be called without arguments, by name.
        seconds: to spend on samples, for each function.
        warmup: seconds of calls before the first sample, for each function; at least one call is made.
        samples: least and greatest number of samples, whatever `seconds` says.
        device: where the work is done. On a CUDA device the device's own events are read, so that the time
            is that of the device's work, and of waiting for the CPU where that is slower.
        now: a clock that returns seconds.

    Raises:
        ParameterError: `samples` asks for none.
    """
    if not 1 <= samples[0] <= samples[1]:
        raise ParameterError("samples", samples, "a pair 1 <= least <= greatest")
    stopwatch = _cuda_stopwatch if torch.device(device).type == "cuda" else _cpu_stopwatch(now)
    with _no_garbage_collection():
        calls = {name: _warm_up(f, stopwatch, warmup) for name, f in functions.items()}
        taken: dict[str, list[float]] = {name: [] for name in functions}
        running = dict.fromkeys(functions, 0.0)
        end = now() + seconds * len(functions)
        for turn in range(samples[1]):
            if turn >= samples[0] and now() >= end:
                break
            for name, function in functions.items():
                before = time.thread_time()
                taken[name].append(stopwatch(function, calls[name]))
                running[name] += time.thread_time() - before
    on_cpu = stopwatch is not _cuda_stopwatch and now is time.perf_counter
    return {
        name: Timing(
            tuple(times), calls[name], min(1.0, running[name] / (sum(times) * calls[name])) if on_cpu else 1.0
        )
        for name, times in taken.items()
    }


def ratio(one: Timing, other: Timing) -> Ratio:
    """Return how many times as long `one` takes as `other`, both from the same `measure_in_turns`.

    The interval is free of assumptions about the noise: it lies between two order statistics of the paired
    ratios (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2).

    Raises:
        ParameterError: the two were not sampled in turns.
    """
    if len(one.samples) != len(other.samples):
        raise ParameterError("other", len(other.samples), f"sampled as often as one ({len(one.samples)})")
    ratios = sorted(a / b for a, b in zip(one.samples, other.samples, strict=True))
    rank = _median_rank(len(ratios))
    if rank == 0:
        return Ratio(statistics.median(ratios), 0.0, math.inf)
    return Ratio(statistics.median(ratios), ratios[rank - 1], ratios[-rank])


def _median_rank(n: int, miss: float = 0.025) -> int:
    """Return the greatest r with P(Binomial(n, 1/2) < r) <= miss: r-th smallest and r-th greatest enclose."""
    below, rank = 0.0, 0
    while rank < n:
        below += math.exp(math.lgamma(n + 1) - math.lgamma(rank + 1) - math.lgamma(n - rank + 1)) / 2.0**n
        if below > miss:
            break
        rank += 1
    return rank


_LEAST_SAMPLE = 1e-3  # seconds: far above the clock's resolution and a Python call


def _warm_up(function: Callable[[], object], stopwatch: Callable, seconds: float) -> int:
    """Call for some seconds; return how many calls make one sample."""
    spent = stopwatch(function, 1)
    fastest = spent
    while spent < seconds:
        calls = max(1, round(_LEAST_SAMPLE / max(fastest, 1e-9)))
        each = stopwatch(function, calls)
        spent += each * calls
        fastest = min(fastest, each)
    return max(1, math.ceil(_LEAST_SAMPLE / max(fastest, 1e-9)))


def _cpu_stopwatch(now: Callable[[], float]) -> Callable[[Callable[[], object], int], float]:
    def stopwatch(function: Callable[[], object], calls: int) -> float:
        start = now()
        for _ in range(calls):
            function()
        return (now() - start) / calls

    return stopwatch


def _cuda_stopwatch(function: Callable[[], object], calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


@contextmanager
def _no_garbage_collection():
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _quantile(samples: tuple[float, ...], share: float) -> float:
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def readable(seconds: float) -> str:
    """Return a time in the unit that suits it, with three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
