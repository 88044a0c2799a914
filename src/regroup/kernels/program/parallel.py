"""A program as a function that is given threads by its caller: for object code without Python.

`int name(inputs ..., outputs ..., arena, shares, parallel_for, context)` calls, for each step,

    parallel_for(context, shares, task, state)

which calls `task(state, i)` for each i from 0 to `shares`, in any order and on any threads, and returns when
all are done. A task does its share of the step's work items, in private memory of its own. Work items write
outputs of their own, so that results do not depend on the shares.
"""

from __future__ import annotations

from regroup.kernels.language.code import Code, Operand
from regroup.kernels.language.words import put, word
from regroup.kernels.problems.view import ARENA, WEIGHTS
from regroup.kernels.program.arrangement import Arrangement, Placed
from regroup.kernels.program.entry import (
    NO_SHARES,
    NULL_POINTER,
    Signature,
    fill,
    is_null,
    look_ahead,
    opened,
    private_floats,
    refuse,
    view_table,
)
from regroup.kernels.templates.parts.fetch import CURSOR, MOST

_SHARES = 0
"""Word of the state that says into how many shares steps are cut; the addresses of buffers follow."""


def parallel(arrangement: Arrangement, name: str, signature: Signature) -> list[Code]:
    """Return the function `name`, and those of its steps."""
    more = {"shares": "i32", "parallel_for": "ptr", "context": "ptr"}
    code = Code(arrangement.target, name, **signature.arguments, **more)
    buffers, (shares, parallel_for, context) = opened(code, signature)
    refuse(code, [is_null(code, parallel_for)], NULL_POINTER)
    refuse(code, [code.compare("slt", shares, 1)], NO_SHARES)
    places = {buffer: 1 + i for i, buffer in enumerate(buffers)}
    state = code.memory(1 + len(places))
    put(code, state, _SHARES, code.widened(shares))
    for buffer, place in places.items():
        code.store_pointer(buffers[buffer], state, place)
    found = []
    for number in range(len(arrangement.steps)):
        task = _Task(arrangement, f"{name}.{number}", number, places)
        given = f"ptr {context}, i32 {shares}, ptr @{task.code.name}, ptr {state}"
        code.line(f"call void {parallel_for}({given})")
        found.append(task.code)
    return [*found, code]


class _Task:
    """`task(state, share)`: a share of the work items of a step."""

    def __init__(self, arrangement: Arrangement, name: str, number: int, places: dict[int, int]) -> None:
        self.code = code = Code(arrangement.target, name, state="ptr", share="i32")
        code.internal, code.attributes = True, "nounwind"
        self.arrangement = arrangement
        state, share = code.arguments
        self.share, self.shares = code.widened(share), word(code, state, _SHARES)
        step = arrangement.steps[number]
        used = {ARENA, WEIGHTS} | {buffer for placed in step for buffer, _ in placed.views}
        self.buffers = {buffer: code.load_pointer(state, places[buffer]) for buffer in sorted(used)}
        arena = self.buffers[ARENA] + arrangement.arena_floats
        self.cursor = arena + self.share * private_floats(arrangement)
        self.table = view_table(code, arrangement)
        put(code, self.cursor, 2, 0)  # no call goes on where another has ended
        self._look_ahead(*arrangement.fetches[number])
        for placed in step:
            self._call(placed)

    def _mine(self, total: int) -> tuple[Operand, Operand]:
        """Return the first of this task's share of `total` things, and the one after the last."""
        code = self.code
        low = code.integer(total) * self.share // self.shares
        high = code.integer(total) * (self.share + 1) // self.shares
        return low, high

    def _look_ahead(self, start: int, count: int, shared: int) -> None:
        code, first = self.code, self.buffers[WEIGHTS] + start
        if not shared:
            look_ahead(code, self.cursor, first, min(count, MOST))
            return
        low, high = self._mine(count)
        look_ahead(code, self.cursor, first + low, code.smaller(high - low, MOST))

    def _call(self, placed: Placed) -> None:
        code = self.code
        low, high = map(code.integer, self._mine(placed.kernel.items))
        for _ in code.when(code.compare("slt", low, high)):
            fill(code, self.table, placed.views, self.buffers)
            symbol = self.arrangement.symbols[placed.kernel]
            code.invoke(symbol, self.table, low, high, self.cursor + CURSOR)
