"""Whether others want the cores: then threads wait asleep, and nobody waits for a thread that is late.

At the end of a parallel region all its threads meet. That costs nothing while each has a core, and PyTorch's
threads are the best to have: after its operators they stay awake for milliseconds, and others would find the
cores taken. But who has lost its core comes back when the system lets it. So where threads are late, be it at
the end or with a chunk that others wait for, the calls of the next time run on a team of our own, of which
nobody needs to come. After that a call tries PyTorch's again; each time later, if these are late once more.
"""

from __future__ import annotations

import time

from regroup.kernels.language import atomics
from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.words import pointer, put, wide, word
from regroup.kernels.machine import workers
from regroup.kernels.machine.target import Target
from regroup.kernels.program import board as words

_SHORTEST, _LONGEST = 0.02, 0.5
"""Seconds until a try, so that what it costs, some milliseconds, is lost among them."""


class Crowd:
    """What a process knows of its cores.

    Attributes:
        late: how often a thread was late since the last try; native code counts it.
    """

    def __init__(self) -> None:
        self.late = workers.shared_words(1)
        workers.keep_for_ever(self.late)
        self._seen, self._until, self._time = 0, 0.0, _SHORTEST

    def is_there(self) -> bool:
        """Return whether a call had better not wait for anyone; if not, it is a try."""
        late = int(self.late[0])
        if not late:
            self._time = _SHORTEST
            return False
        now = time.monotonic()
        if not self._seen:
            self._until, self._time = now + self._time, min(2 * self._time, _LONGEST)
        elif late != self._seen:
            self._until = max(self._until, now + _SHORTEST)
        elif now > self._until:
            self.late[0] = self._seen = 0
            return False
        self._seen = late
        return True


def is_there(code: Code, board: Value) -> Value:
    """Return whether threads that wait for a call had better sleep."""
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
