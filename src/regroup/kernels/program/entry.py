"""A program as functions that call its kernels in order: for object code without Python.

`int name(inputs ..., outputs ..., arena)` does one image and returns 0; or `NULL_POINTER` or `UNALIGNED`, and
has then done nothing. Where the weights are not in the same module, their address is the next argument. A
function with a hook calls `hook(context, step, name, done)` before and after each step; its last arguments
are these two. `parallel.py` has the one that is given threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.words import put
from regroup.kernels.problems.view import ARENA, WEIGHTS
from regroup.kernels.program.arrangement import Arrangement
from regroup.kernels.templates.parts.fetch import CURSOR, MOST

NULL_POINTER, UNALIGNED, NO_CPU, NO_SHARES = 1, 2, 3, 4
"""What functions return where an argument is no address, where the arena's (or weights') does not fit, where
there is no code for the CPU, and where there is no positive number of shares."""

ALIGNMENT = 64
"""Bytes of whose multiple the arena's address is, and that of weights."""

HEAD = 64
"""Bytes that lie before weights."""


@dataclass(frozen=True)
class Signature:
    """What all of a program's functions are given.

    Attributes:
        buffers: names of the arguments that are the network's inputs and outputs, with the number of each in
            the views; None for those that nothing reads.
        weights: the address of the packed weights as LLVM assembly has it; None: it is an argument, and 64
            bytes lie before the weights.
        start: floats from there to those of this program.
    """

    buffers: Mapping[str, int | None]
    weights: str | None = None
    start: int = 0

    @property
    def arguments(self) -> dict[str, str]:
        """Their types by name."""
        return dict.fromkeys((*self.buffers, "arena", *(() if self.weights else ("weights",))), "ptr")


def functions(arrangement: Arrangement) -> list[Code]:
    """Return the functions of all kernels, which only functions of the same module can call."""
    codes = [code for kernel, symbol in arrangement.symbols.items() for code in kernel.emit(symbol)]
    for code in codes:
        code.internal, code.attributes = True, "nounwind"
    return codes


def private_floats(arrangement: Arrangement) -> int:
    """Return the floats of memory of kernels alone: where their cursor is, and what they keep."""
    return CURSOR + arrangement.scratch


def memory_floats(arrangement: Arrangement) -> int:
    """Return the floats of the memory that a function needs: the arena, then that of kernels alone."""
    return arrangement.arena_floats + private_floats(arrangement)


def entry(arrangement: Arrangement, name: str, signature: Signature, *, hooked: bool = False) -> Code:
    """Return the function `name`, with a hook or without."""
    more = {"hook": "ptr", "context": "ptr"} if hooked else {}
    code = Code(arrangement.target, name, **signature.arguments, **more)
    buffers, _ = opened(code, signature)
    hook, context = code.arguments[-2:]
    if hooked:
        refuse(code, [is_null(code, hook)], NULL_POINTER)
    cursor = buffers[ARENA] + arrangement.arena_floats
    scratch = cursor + CURSOR
    table = view_table(code, arrangement)
    put(code, cursor, 2, 0)  # no call goes on where another has ended
    for i, (step, fetch) in enumerate(zip(arrangement.steps, arrangement.fetches, strict=True)):
        start, count, _ = fetch
        look_ahead(code, cursor, buffers[WEIGHTS] + start, min(count, MOST))
        told = f"ptr {context}, i32 {i}, ptr {code.text_constant(arrangement.names[i])}" if hooked else ""
        if hooked:
            code.line(f"call void {hook}({told}, i32 0)")
        for placed in step:
            fill(code, table, placed.views, buffers)
            items = (code.integer(0), code.integer(placed.kernel.items))
            code.invoke(arrangement.symbols[placed.kernel], table, *items, scratch)
        if hooked:
            code.line(f"call void {hook}({told}, i32 1)")
    return code


def opened(code: Code, signature: Signature) -> tuple[dict[int, Value], list[Value]]:
    """Begin a function: refuse what cannot be; return where each buffer is, and the arguments that follow."""
    code.type, code.end, code.attributes = "i32", "ret i32 0", "nounwind"
    number = len(signature.buffers)
    pointers = code.arguments[: len(signature.arguments)]
    given, (arena, *weights) = pointers[:number], pointers[number:]
    refuse(code, [is_null(code, a) for a in pointers], NULL_POINTER)
    refuse(code, [_unaligned(code, a) for a in (arena, *weights)], UNALIGNED)
    place = weights[0] + HEAD // 4 if weights else Value(code, signature.weights or "", "ptr")
    buffers = {ARENA: arena, WEIGHTS: place + signature.start}
    buffers |= {n: a for a, n in zip(given, signature.buffers.values(), strict=True) if n is not None}
    return buffers, code.arguments[len(pointers) :]


def is_null(code: Code, pointer: Value) -> Value:
    """Return whether a pointer is none."""
    return code.emit("i1", f"icmp eq ptr {pointer}, null")


def refuse(code: Code, conditions: Sequence[Value], status: int) -> None:
    """Write a return with a status, if one of some conditions holds."""
    wrong = conditions[0]
    for other in conditions[1:]:
        wrong = code.binary("or", wrong, other)
    refused, go_on = code.fresh("refused"), code.fresh("go")
    code.line(f"br i1 {wrong}, label %{refused}, label %{go_on}")
    code.label(refused)
    code.line(f"ret i32 {status}")
    code.label(go_on)


def view_table(code: Code, arrangement: Arrangement) -> Value:
    """Return a table in which the views of any kernel have a place."""
    return code.memory(max((len(p.views) for step in arrangement.steps for p in step), default=1) or 1)


def fill(code: Code, table: Value, views: Sequence[tuple[int, int]], buffers: Mapping[int, Value]) -> None:
    """Write the addresses of a kernel's views into a table."""
    for i, (buffer, offset) in enumerate(views):
        code.store_pointer(buffers[buffer] + offset, table, i)


def look_ahead(code: Code, cursor: Value, first: Value, count: int | Value) -> None:
    """Point a cursor of kernels at the weights that the next steps will need."""
    code.store_pointer(first, cursor, 0)
    code.store_pointer(first + count, cursor, 1)


def _unaligned(code: Code, pointer: Value) -> Value:
    address = code.emit(code.index, f"ptrtoint ptr {pointer} to {code.index}")
    return code.compare("ne", code.binary("and", address, ALIGNMENT - 1), 0)
