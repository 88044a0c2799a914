"""Threads that are late, and whose threads calls take."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from random import Random

import pytest

from regroup.kernels.machine.target import Target
from regroup.kernels.program import board as words
from regroup.kernels.program.crowd import Preference
from regroup.kernels.program.region import Region


def test_who_is_late_at_the_end_of_a_region_is_counted():
    region = Region(Target.host())
    count = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3)
    leave = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(region.loaded.address("leave"))
    board = region.board(3)
    board[words.COUNT] = ctypes.cast(count, ctypes.c_void_p).value
    for times in (1, 2):
        board[words.LEFT] = 0
        leave(board.ctypes.data, 1)
        assert board[words.LEFT] == 1, "one of two has come"
        leave(board.ctypes.data, 0)
        assert region.late[0] == times
    leave(board.ctypes.data, 2)
    leave(board.ctypes.data, 0)
    assert region.late[0] == 2


def _seconds_of_calls(
    preference: Preference, now: float, end: float, call: Callable[[bool], tuple[float, bool]]
) -> float:
    """Let calls take the times that `call` says, until a time; return the mean."""
    start, count = now, 0
    while now < end:
        seconds, late = call(preference.ours)
        now, count = now + seconds, count + 1
        preference.took(seconds, now, late=late)
    return (now - start) / count


@pytest.mark.parametrize("seed", range(5))
def test_calls_take_the_threads_with_which_they_are_faster(seed):
    rng = Random(seed)

    def quiet(ours: bool) -> tuple[float, bool]:  # as PyTorch's threads are awake, ours have to share
        late = rng.random() < 0.01
        return (2.5e-3 if ours else 1.5e-3) + late * 3e-3, late

    def busy(ours: bool) -> tuple[float, bool]:
        late = rng.random() < 0.7
        return rng.uniform(3e-3, 6e-3) + (0 if ours else late * rng.uniform(4e-3, 40e-3)), late

    preference, now = Preference(), 0.0
    for seconds, margin in ((20, 1.1), (20, 1.1), (2, 1.5), (2, 1.5), (2, 1.5)):
        assert _seconds_of_calls(preference, now, now + seconds, quiet) < margin * 1.55e-3
        assert _seconds_of_calls(preference, now + seconds, now + 2 * seconds, busy) < margin * 4.5e-3
        now += 2 * seconds
