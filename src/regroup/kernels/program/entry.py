"""A program as one function that calls its kernels in order, on one thread: for object code without Python.

`int name(inputs ..., outputs ..., arena)` does one image and returns 0; or `NULL_POINTER` or `UNALIGNED`, and
has then done nothing. Where the weights are not in the same module, their address is the last argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.words import put
from regroup.kernels.problems.view import ARENA, WEIGHTS
from regroup.kernels.program.arrangement import Arrangement, Placed
from regroup.kernels.templates.parts.fetch import CURSOR, MOST

NULL_POINTER, UNALIGNED = 1, 2
"""What the function returns where an argument is no address, or the arena's (or weights') does not fit."""

ALIGNMENT = 64
"""Bytes of whose multiple the arena's address is, and that of weights."""

HEAD = 64
"""Bytes that lie before weights."""


def functions(arrangement: Arrangement) -> list[Code]:
    """Return the functions of all kernels, which only functions of the same module can call."""
    codes = [code for kernel, symbol in arrangement.symbols.items() for code in kernel.emit(symbol)]
    for code in codes:
        code.internal, code.attributes = True, "nounwind"
    return codes


def memory_floats(arrangement: Arrangement) -> int:
    """Return the floats of the memory that the function needs: the arena, then that of kernels alone."""
    return arrangement.arena_floats + CURSOR + arrangement.scratch


def entry(
    arrangement: Arrangement, name: str, buffers: Mapping[str, int | None], weights: str | None = None
) -> Code:
    """Return the function `name`.

    Args:
        arrangement: the kernels and their places.
        name: its symbol.
        buffers: names of the arguments that are the network's inputs and outputs, with the number of each in
            the views; None for those that nothing reads.
        weights: the address of the packed weights as LLVM assembly has it; None: it is an argument, and 64
            bytes lie before them.
    """
    return _Entry(arrangement, name, buffers, weights).code


class _Entry:
    def __init__(
        self, arrangement: Arrangement, name: str, buffers: Mapping[str, int | None], weights: str | None
    ) -> None:
        more = () if weights else ("weights",)
        code = Code(arrangement.target, name, **dict.fromkeys((*buffers, "arena", *more), "ptr"))
        code.type, code.end, code.attributes = "i32", "ret i32 0", "nounwind"
        self.code, self.arrangement = code, arrangement
        given = code.arguments[: len(buffers)]
        arena = code.arguments[len(buffers)]
        self._refuse([code.emit("i1", f"icmp eq ptr {a}, null") for a in code.arguments], NULL_POINTER)
        self._refuse([self._unaligned(a) for a in code.arguments[len(buffers) :]], UNALIGNED)
        place = Value(code, weights, "ptr") if weights else code.arguments[-1] + HEAD // 4
        self.buffers = {ARENA: arena, WEIGHTS: place}
        self.buffers |= {n: a for a, n in zip(given, buffers.values(), strict=True) if n is not None}
        self.cursor = arena + arrangement.arena_floats
        self.scratch = self.cursor + CURSOR
        most = max((len(placed.views) for step in arrangement.steps for placed in step), default=1)
        self.table = code.memory(max(1, most))
        put(code, self.cursor, 2, 0)  # no call goes on where another has ended
        for step, fetch in zip(arrangement.steps, arrangement.fetches, strict=True):
            self._look_ahead(*fetch[:2])
            for placed in step:
                self._call(placed)

    def _unaligned(self, pointer: Value) -> Value:
        code = self.code
        address = code.emit(code.index, f"ptrtoint ptr {pointer} to {code.index}")
        return code.compare("ne", code.binary("and", address, ALIGNMENT - 1), 0)

    def _refuse(self, conditions: Sequence[Value], status: int) -> None:
        """Write a return with a status, if one of some conditions holds."""
        code = self.code
        wrong = conditions[0]
        for other in conditions[1:]:
            wrong = code.binary("or", wrong, other)
        refused, go_on = code.fresh("refused"), code.fresh("go")
        code.line(f"br i1 {wrong}, label %{refused}, label %{go_on}")
        code.label(refused)
        code.line(f"ret i32 {status}")
        code.label(go_on)

    def _look_ahead(self, start: int, count: int) -> None:
        """Point the kernels' cursor at the weights that the next steps will need."""
        first = self.buffers[WEIGHTS] + start
        self.code.store_pointer(first, self.cursor, 0)
        self.code.store_pointer(first + min(count, MOST), self.cursor, 1)

    def _call(self, placed: Placed) -> None:
        code, kernel = self.code, placed.kernel
        for i, (buffer, offset) in enumerate(placed.views):
            code.store_pointer(self.buffers[buffer] + offset, self.table, i)
        items = (code.integer(0), code.integer(kernel.items))
        code.invoke(self.arrangement.symbols[kernel], self.table, *items, self.scratch)
