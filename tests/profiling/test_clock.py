"""The clock, driven by a clock that the tests turn by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regroup.errors import ParameterError
from regroup.profiling.clock import Timing, _median_rank, measure, measure_in_turns, ratio
from regroup.profiling.machine import machine


class Hands:
    """Time that passes only when a function takes some."""

    def __init__(self):
        self.time, self.calls, self.turns = 0.0, [], Counter()

    def now(self):
        return self.time

    def taking(self, name, *durations):
        def function():
            self.time += durations[min(self.turns[name], len(durations) - 1)]
            self.turns[name] += 1
            self.calls.append(name)

        return function


def test_a_steady_function_is_quiet_and_exact():
    hands = Hands()
    timing = measure(hands.taking("a", 0.5), seconds=10, now=hands.now)
    assert timing.samples == (0.5,) * 20
    assert (timing.median, timing.low, timing.high, timing.verdict) == (0.5, 0.5, 0.5, "quiet")


def test_the_slow_first_calls_are_not_counted():
    hands = Hands()
    timing = measure(hands.taking("a", 9.0, 0.01), seconds=0.1, warmup=0.2, now=hands.now)
    assert max(timing.samples) < 0.02


def test_functions_take_turns():
    hands = Hands()
    functions = {name: hands.taking(name, 0.25) for name in "abc"}
    measure_in_turns(functions, seconds=2, warmup=0, samples=(1, 100), now=hands.now)
    assert hands.calls[:3] == ["a", "b", "c"]
    assert hands.calls[3:9] == ["a", "b", "c"] * 2
    assert len(hands.calls) == 3 + 3 * 8


def test_a_function_too_short_for_the_clock_is_called_many_times_in_a_sample():
    hands = Hands()
    microsecond = 2.0**-20
    timing = measure(hands.taking("a", microsecond), seconds=0.01, warmup=0.002, now=hands.now)
    assert timing.calls * microsecond >= 1e-3
    assert timing.median == microsecond


def test_at_least_the_least_number_of_samples_is_taken_of_a_slow_function():
    hands = Hands()
    assert len(measure(hands.taking("a", 60.0), seconds=0.1, now=hands.now).samples) == 7


def test_one_interruption_does_not_move_the_median():
    assert Timing((1.0, 1.0, 1.0, 1.0, 50.0)).median == 1.0


def test_the_verdict_tells_quiet_from_noisy_from_unusable():
    assert Timing((1.0, 1.01, 1.02, 1.03)).verdict == "quiet"
    assert Timing((1.0, 1.1, 1.2, 1.3)).verdict == "noisy"
    assert Timing((1.0, 2.0, 3.0, 4.0)).verdict == "unusable"


def test_a_steady_load_by_others_is_not_quiet():
    assert Timing((1.0,) * 9, running=0.8).verdict == "noisy"
    assert Timing((1.0,) * 9, running=0.4).verdict == "unusable"


def test_the_share_in_which_the_thread_ran_is_a_share():
    assert 0 <= measure(lambda: None, seconds=0.01, warmup=0).running <= 1


def test_a_ratio_is_faster_only_when_the_interval_says_so():
    slow_spell = (1.0, 1.0, 5.0, 5.0, 5.0, 1.0, 1.0, 1.0)
    other = Timing(tuple(2 * t for t in slow_spell))
    assert ratio(Timing(slow_spell), other).verdict == "faster"
    assert ratio(other, Timing(slow_spell)).verdict == "slower"
    assert ratio(Timing((1.0, 2.0) * 4), Timing((2.0, 1.0) * 4)).verdict == "no difference shown"
    assert ratio(Timing((1.0,) * 3), Timing((9.0,) * 3)).verdict == "no difference shown"


def test_timings_that_were_not_taken_in_turns_have_no_ratio():
    with pytest.raises(ParameterError, match="sampled as often"):
        ratio(Timing((1.0, 2.0)), Timing((1.0,)))


def test_no_samples_are_refused():
    with pytest.raises(ParameterError, match="least <= greatest"):
        measure_in_turns({}, samples=(0, 0))


@given(st.integers(1, 12))
def test_the_interval_of_the_median_misses_in_at_most_five_per_cent(n):
    """By counting all 2^n ways in which samples can fall below the true median."""

    def misses(rank):
        above = sum(1 for k in range(rank) for _ in combinations(range(n), k))
        return 2 * above / 2**n

    rank = _median_rank(n)
    assert misses(rank) <= 0.05 + 1e-12
    assert misses(rank + 1) > 0.05


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30))
def test_quartiles_enclose_the_median(samples):
    timing = Timing(tuple(samples))
    assert timing.low <= timing.median * (1 + 1e-12)
    assert timing.median <= timing.high * (1 + 1e-12)


def test_the_machine_says_what_a_time_depends_on():
    described = machine().to_dict()
    assert described["threads"] >= 1
    assert described["cores"] >= 1
    assert described["device"]
    assert str(described["torch"]) in str(machine())
    assert not math.isnan(described["cores"])
