"""Run calls of programs on threads: those that PyTorch uses, or a team of our own."""

from __future__ import annotations

import ctypes
import os
import time
from functools import lru_cache

import numpy as np

from regroup.files.cache import Cache
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit, workers
from regroup.kernels.machine.target import Target
from regroup.kernels.machine.threads import Lock, entry_points, is_child
from regroup.kernels.program import board as words
from regroup.kernels.program import team
from regroup.kernels.program.crowd import Preference
from regroup.kernels.program.runner import FIELDS

_BOARD, _TEAMS, _IMAGES = (FIELDS.index(name) for name in ("board", "teams", "images"))

_AWAKE = (100e-6, 1e-3)
"""Seconds that a thread waits awake for a step, and for a call: to wake it takes tens of microseconds."""

_LATE = 500e-6
"""Seconds after which a thread is late: interrupts are shorter, and other processes keep a core longer."""

_RECENT = 20e-3
"""Seconds for which it counts that threads were late."""

_CLOCK, _MARGIN = 2.5e9, 3
"""Cycles of a second, more or less; estimates of them are those of kernels that find their data in caches."""


class Region:
    """The machine code by which threads share a call, and the threads; one per process and target.

    Args:
        target: the CPU.
        stumble: for tests: up to so many microseconds, threads lose their core now and then.
    """

    def __init__(self, target: Target, stumble: int = 0) -> None:
        codes = assembly(team.codes(target))
        key = "\n".join([jit.VERSION, repr(target), codes])
        loaded = jit.load([Cache.default().get(key, lambda: jit.compile_object(codes, target))])
        workers.keep_for_ever(loaded.engine)
        self.loaded, self._stumble, self._openmp = loaded, stumble, entry_points()
        run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        names = ("alone", "team", "region")
        self._alone, self._team, self._region = (run(loaded.address(name)) for name in names)
        self._helper = loaded.address("helper")
        pause = _pause(ctypes.CFUNCTYPE(None, ctypes.c_int64)(loaded.address("rest")))
        self._pause, self._waits = pause, [max(1, int(seconds / pause)) for seconds in (*_AWAKE, _LATE)]
        self.late, self._clear = workers.shared_words(1), 0.0
        workers.keep_for_ever(self.late)
        self._teams: dict[tuple[int, bool], _Teams] = {}
        self._lock = Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._teams.clear)

    @staticmethod
    @lru_cache(maxsize=8)
    def of(target: Target) -> Region:
        """Return the region of a target."""
        return Region(target)

    def board(self, threads: int) -> np.ndarray:
        """Return a board for so many threads, of which one uses it: the others would have no locks."""
        board = workers.shared_words(words.board_words(threads))
        board[words.LATE_AT] = self.late.ctypes.data
        board[[words.WAIT, words.WAIT_FOR_CALL, words.LATE]] = self._waits
        if self._openmp:
            board[[words.PARALLEL, words.NUMBER, words.COUNT]] = list(self._openmp.values())
        if self._stumble:
            sleep = workers.address(ctypes.CDLL(None).usleep)
            board[[words.STUMBLE, words.SLEEP]] = self._stumble, sleep
        return board

    def patience(self, cycles: float) -> int:
        """Return after how many pauses a thread is late with what takes so many cycles, by an estimate."""
        return max(self._waits[-1], int(_MARGIN * cycles / _CLOCK / self._pause))

    def run(self, fields: np.ndarray, threads: int, board: int, preference: Preference | None = None) -> None:
        """Run the call that `fields` are about, on so many threads at most.

        Args:
            fields: the call's data (`FIELDS`).
            threads: how many.
            board: address of a board for that many, which nobody uses but this call, where it runs alone.
            preference: whose threads; ours by default.
        """
        fields[_BOARD] = board
        if threads == 1:
            self._alone(fields.ctypes.data)
        elif preference is None or not self._openmp or is_child():
            self._forget(time.monotonic())
            self._on_ours(fields, threads)
        else:
            start = time.monotonic()
            self._forget(start)
            late = int(self.late[0])
            if preference.ours:
                self._on_ours(fields, threads)
            else:
                fields[_TEAMS] = self._table(threads, ours=False)
                self._region(fields.ctypes.data)
            now, images = time.monotonic(), max(1, int(fields[_IMAGES]))
            preference.took((now - start) / images, now, late=int(self.late[0]) > late)

    def _forget(self, now: float) -> None:
        if now > self._clear:
            self.late[0], self._clear = 0, now + _RECENT

    def _on_ours(self, fields: np.ndarray, threads: int) -> None:
        fields[_TEAMS] = self._table(threads, ours=True)
        self._team(fields.ctypes.data)

    def _table(self, threads: int, *, ours: bool) -> int:
        """Return the address of the boards of teams; if none is free, there is a new one, up to all cores."""
        teams = self._teams.get((threads, ours))
        if teams is None or (teams.are_busy() and len(teams.boards) < teams.most):
            with self._lock:
                teams = self._teams.setdefault((threads, ours), _Teams(threads))
                if teams.are_busy() and len(teams.boards) < teams.most:
                    self._add(teams, threads, ours=ours)
        return teams.table.ctypes.data

    def _add(self, teams: _Teams, threads: int, *, ours: bool) -> None:
        """Add a team: threads of our own with a board, or only the board, for threads of OpenMP's."""
        board = self.board(threads)
        board[words.SHARES + words.LOCK :: words.APART] = workers.locks(threads)
        board[[words.ACQUIRE, words.RELEASE]] = workers.lock_functions()
        seats = np.array([(board.ctypes.data, seat) for seat in range(1, threads)], np.int64)
        for thing in (board, seats):
            workers.keep_for_ever(thing)
        for seat in seats if ours else ():  # if the system has no more threads to give, it goes with fewer
            workers.start(self._helper, seat.ctypes.data)
        # last: an exception that a signal's handler raises leaves no team of which nobody comes
        teams.table[len(teams.boards)] = board.ctypes.data
        teams.boards.append(board)


class _Teams:
    """Boards of teams of so many threads each, and the table by which native code finds them."""

    def __init__(self, threads: int) -> None:
        self.most = max(1, workers.cores() // threads)
        self.table, self.boards = workers.shared_words(self.most + 1), []

    def are_busy(self) -> bool:
        return all(board[words.BUSY] for board in self.boards)


def _pause(rest: ctypes._CFuncPtr) -> float:
    """Return the seconds of a pause."""
    count, best = 1000, float("inf")
    for _ in range(5):
        start = time.perf_counter()
        rest(count)
        best = min(best, time.perf_counter() - start)
    return best / count
