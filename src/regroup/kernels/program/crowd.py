"""Whether others want the cores, and on whose threads a call is then faster.

At the end of a parallel region all its threads meet. That costs nothing while each has a core, and PyTorch's
threads are the best to have: after its operators they stay awake for milliseconds, and others would find the
cores taken. But who has lost its core comes back when the system lets it; of a team of our own nobody needs
to come. So when threads are late, be it at the end or with a chunk that others wait for, a call tries the
other ones, and keeps those with which it has been faster.
"""

from __future__ import annotations

from regroup.kernels.language import atomics
from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.words import pointer, put, wide, word
from regroup.kernels.machine.target import Target
from regroup.kernels.program import board as words

_TRIAL = 0.03
"""Seconds of a trial, at least: as long as a system lets processes take turns a few times."""

_MEMORY = 0.1
"""Seconds back to which a mean goes, more or less."""

_SHORTEST, _LONGEST = 0.05, 1.0
"""Seconds from one trial to the next, more each time that nothing has come of it."""

_RARE = 20
"""How many times longer than a trial has cost that is, at least."""

_CLEARLY = 0.95
"""By how much a call must be faster on our own threads, which wake from sleep each time."""


class Preference:
    """On whose threads a call runs, by the times that it has taken.

    Attributes:
        ours: on our own, not on PyTorch's.
    """

    def __init__(self) -> None:
        self.ours = self._is_trial = self._is_watched = False
        self._sums, self._counts, self._late = [0.0, 0.0], [0.0, 0.0], False
        self._start, self._until, self._pause = 0.0, 0.0, _SHORTEST

    def took(self, seconds: float, now: float, *, late: bool) -> None:
        """Learn what an image of a call has taken, whether a thread was late, and what time it is."""
        forget = 1 - min(0.9, seconds / _MEMORY)
        self._sums[self.ours] = self._sums[self.ours] * forget + seconds
        self._counts[self.ours] = self._counts[self.ours] * forget + 1
        self._late = self._late or late
        is_over = now - self._start >= _TRIAL
        if self._is_trial:
            self._judge(now, is_over=is_over, late=late)
        elif self._is_watched:
            if is_over:
                self._is_watched = False
                if self._late:
                    self._try(now)
        elif now >= self._until and self.ours:
            self._try(now)
        elif now >= self._until and late:  # what it took before may be of other times
            self._is_watched = True
            self._begin(now)

    def _try(self, now: float) -> None:
        if now - self._until > _RARE * self._pause:
            self._pause = _SHORTEST
        self._is_trial, self.ours = True, not self.ours
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._sums[self.ours], self._counts[self.ours] = 0.0, 0.0
        self._start, self._late = now, False

    def _judge(self, now: float, *, is_over: bool, late: bool) -> None:
        here, there = (self._sums[i] / self._counts[i] for i in (self.ours, not self.ours))
        better = here < there * (_CLEARLY if self.ours else 1)
        if not is_over and (better or not late):
            return
        self._is_trial = False
        if better:
            self._pause = _SHORTEST
            self._until = now + self._pause
        else:
            self.ours, self._pause = not self.ours, min(2 * self._pause, _LONGEST)
            lost = (now - self._start) * max(0.0, 1 - there / here)
            self._until = now + max(self._pause, _RARE * lost)


def is_there(code: Code, board: Value) -> Value:
    """Return whether threads were late a short time ago: those that wait had better sleep."""
    return code.compare("ne", atomics.load(code, _late(code, board), 0, "monotonic"), 0)


def codes(target: Target) -> list[Code]:
    """Return `crowded(board)` and `leave(board, seat)`."""
    return [_crowded(target), _leave(target)]


def _crowded(target: Target) -> Code:
    """`crowded(board)`: note that a thread is late."""
    code = Code(target, "crowded", board="ptr")
    code.internal = True
    atomics.add(code, _late(code, code.arguments[0]), 0, 1, "monotonic")
    return code


def _leave(target: Target) -> Code:
    """`leave(board, seat)`: come to the end of a parallel region; the first thread sees who is late."""
    code = Code(target, "leave", board="ptr", seat="i64")
    board, seat = code.arguments

    def others() -> None:
        atomics.add(code, board, words.LEFT, 1, "release")

    code.either(code.compare("ne", seat, 0), others, lambda: _meet(code, board))
    return code


def _meet(code: Code, board: Value) -> None:
    count = wide(code, code.emit("i32", f"call i32 {pointer(code, word(code, board, words.COUNT))}()")) - 1
    loop, spin, late, done = map(code.fresh, ("loop", "spin", "late", "done"))
    turns = code.memory(1)
    put(code, turns, 0, word(code, board, words.LATE))
    code.line(f"br label %{loop}")
    code.label(loop)
    all_there = code.compare("sge", atomics.load(code, board, words.LEFT), count)
    code.line(f"br i1 {all_there}, label %{done}, label %{spin}")
    code.label(spin)
    atomics.pause(code)
    left = word(code, turns, 0) - 1
    put(code, turns, 0, left)
    code.line(f"br i1 {code.compare('sgt', left, 0)}, label %{loop}, label %{late}")
    code.label(late)
    code.invoke("crowded", board)
    code.line(f"br label %{done}")
    code.label(done)


def _late(code: Code, board: Value) -> Value:
    return pointer(code, word(code, board, words.LATE_AT))
