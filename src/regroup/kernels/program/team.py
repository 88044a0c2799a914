"""How threads share the work of a call: work is waited for, never threads.

Every step is cut into chunks, and threads claim them: each first those of its own share, in their order, then
the last ones of others' shares. A step is over when its chunks are done; who does the last one opens the next
step. A thread that has lost its core holds up the others only if it has claimed a chunk and not done it; one
that comes late finds what there is to do now, and the calling thread alone can do all. So on an idle machine
each thread does what it did in the call before, and finds in its caches what it has itself written.

The words by which they agree are a team's board (`board.py`). The threads are PyTorch's as long as all of
them are there when they are wanted, and else a team of our own, for whom nobody waits (`crowd.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from regroup.kernels.language import atomics
from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.words import pointer, put, wide, word
from regroup.kernels.machine.target import Target
from regroup.kernels.program import board as words
from regroup.kernels.program import crowd
from regroup.kernels.program.board import step_of
from regroup.kernels.program.runner import EPOCH, FIELDS, MEMORY, STEP_BITS, runner

_RANDOM = MEMORY
"""Where a thread that may stumble has its random number."""


def codes(target: Target) -> list[Code]:
    """Return the functions by which threads share work; each runs a call, whose fields it is given.

    `void alone(fields)` runs it on the calling thread; `void team(fields)` with whoever comes of a team that
    is free; `void region(fields)` in a parallel region of OpenMP's, with a board that is free.
    `helper(arguments)` is what a team's threads run, and `void rest(count)` waits.
    """
    parts = (_stumble, _wait, _serve, _begin, _join, _alone, _team, _region, _helper, _rest)
    return [
        runner(target),
        *words.codes(target),
        *crowd.codes(target),
        *(part(target) for part in parts),
    ]


def _stumble(target: Target) -> Code:
    """`stumble(board, memory)`: for tests, lose the core for a while, once in four times."""
    code = Code(target, "stumble", board="ptr", memory="ptr")
    code.internal = True
    board, memory = code.arguments
    most = word(code, board, words.STUMBLE)
    for _ in code.when(code.compare("ne", most, 0)):
        number = code.emit("i64", f"mul i64 {word(code, memory, _RANDOM)}, 6364136223846793005")
        number = code.emit("i64", f"add i64 {number}, 1442695040888963407")
        put(code, memory, _RANDOM, number)
        for _ in code.when(code.compare("ult", number, 1 << 62)):
            some = code.emit("i64", f"lshr i64 {number}, 20")
            long = code.emit("i32", f"trunc i64 {some % most} to i32")
            function = pointer(code, word(code, board, words.SLEEP))
            code.emit("i32", f"call i32 {function}(i32 {long})")
    return code


def _wait(target: Target) -> Code:
    """`wait(board, seat, now, memory)`: return when another step is open, or some time later.

    First it waits awake, then asleep.
    """
    code = Code(target, "wait", board="ptr", seat="i64", now="i64", memory="ptr")
    code.internal = True
    board, seat, now, memory = code.arguments
    loop, spin, sleep, done = map(code.fresh, ("loop", "spin", "sleep", "done"))
    turns = code.memory(1)
    in_call = code.compare("uge", now, 1 << STEP_BITS)
    there = crowd.is_there(code, board)
    between = code.select(there, 1, word(code, board, words.WAIT_FOR_CALL), "i64")
    shortest, patience = word(code, board, words.WAIT), atomics.load(code, board, words.PATIENCE, "monotonic")
    awake = code.select(there, shortest, patience, "i64")
    put(code, turns, 0, code.select(in_call, awake, between, "i64"))
    code.line(f"br label %{loop}")
    code.label(loop)
    changed = code.compare("ne", atomics.load(code, board, words.NOW, "monotonic"), now)
    code.line(f"br i1 {changed}, label %{done}, label %{spin}")
    code.label(spin)
    atomics.pause(code)
    left = word(code, turns, 0) - 1
    put(code, turns, 0, left)
    code.line(f"br i1 {code.compare('sgt', left, 0)}, label %{loop}, label %{sleep}")
    code.label(sleep)
    # where others want the cores, only a small piece of work is known to be late by now
    late = code.compare("eq", patience, code.select(there, word(code, board, words.LATE), patience, "i64"))
    for _ in code.when(code.binary("and", in_call, late)):
        code.invoke("crowded", board)
    atomics.add(code, board, words.SLEEPERS, 1, "seq_cst")
    code.invoke("stumble", board, memory)
    for _ in code.when(code.compare("eq", atomics.load(code, board, words.NOW, "seq_cst"), now)):
        code.invoke("sleep", board, seat, now)
    atomics.add(code, board, words.SLEEPERS, -1, "seq_cst")
    code.line(f"br label %{done}")
    code.label(done)
    return code


def _serve(target: Target) -> Code:
    """`serve(board, seat, last)`: take part in the work until the step number `last`; -1: for ever."""
    code = Code(target, "serve", board="ptr", seat="i64", last="i64")
    code.internal = True
    board, seat, last = code.arguments
    memory, variables = code.memory(MEMORY + 1), code.memory(2)
    put(code, memory, EPOCH, -1)
    start = code.emit("i64", f"mul i64 {atomics.load(code, board, words.NOW)}, 2862933555777941757")
    put(code, memory, _RANDOM, code.emit("i64", f"add i64 {start}, {seat}"))
    labels = ("begin", "look", "mine", "one", "others", "next", "look_there", "another", "idle", "stop")
    begin, look, mine, one, others, following, look_there, another, idle, stop = map(code.fresh, labels)

    def go(label: str) -> None:
        code.line(f"br label %{label}")

    def go_if(condition: Value, yes: str, no: str) -> None:
        code.line(f"br i1 {condition}, label %{yes}, label %{no}")

    go(begin)
    code.label(begin)
    now = atomics.load(code, board, words.NOW)
    go_if(code.compare("eq", step_of(code, now), last), stop, look)
    code.label(look)
    code.invoke("stumble", board, memory)
    owners = atomics.load(code, board, words.OWNERS, "monotonic")
    put(code, variables, 0, 0)
    go_if(code.compare("slt", seat, owners), mine, idle)
    code.label(mine)
    index = _call(code, "claim", board, seat, now, code.value(1, "i64"))
    go_if(code.compare("sge", index, 0), one, others)
    code.label(one)
    _work(code, board, memory, (seat, seat, index), now)
    put(code, variables, 0, word(code, variables, 0) + 1)
    go(mine)
    code.label(others)
    for _ in code.when(code.compare("ne", word(code, variables, 0), 0)):
        code.invoke("finish", board, seat, now, word(code, variables, 0), memory)
        put(code, variables, 0, 0)
    put(code, variables, 1, 1)
    go(following)
    code.label(following)
    distance = word(code, variables, 1)
    put(code, variables, 1, distance + 1)
    go_if(code.compare("slt", distance, owners), look_there, idle)
    code.label(look_there)
    owner = code.value((seat + distance) % owners, "i64")
    index = _call(code, "claim", board, owner, now, code.value(0, "i64"))
    go_if(code.compare("sge", index, 0), another, following)
    code.label(another)
    _work(code, board, memory, (seat, owner, index), now)
    code.invoke("finish", board, seat, now, code.value(1, "i64"), memory)
    go(begin)
    code.label(idle)
    code.invoke("wait", board, seat, now, memory)
    go(begin)
    code.label(stop)
    return code


def _work(code: Code, board: Value, memory: Value, claimed: tuple[Value, Value, Value], now: Value) -> None:
    """Do what was claimed: (seat, owner, index). From here to `finish` the call is sure to last."""
    code.invoke("stumble", board, memory)
    step = step_of(code, now)
    turn = step_of(code, step - word(code, board, words.FIRST))
    code.invoke("work", pointer(code, word(code, board, words.FIELDS_AT)), *claimed, turn, step, memory)
    code.invoke("stumble", board, memory)


def _begin(target: Target) -> Code:
    """`begin(fields)`: open the first step of a call."""
    code = Code(target, "begin", fields="ptr")
    (fields,) = code.arguments
    board = _board(code, fields)
    images, first, last, apart, threads = (
        word(code, fields, FIELDS.index(name))
        for name in ("images", "first_step", "last_step", "image_per_thread", "threads")
    )
    once = code.compare("ne", images * (last - first), 0)
    apart_steps = code.emit("i64", f"zext i1 {once} to i64")
    steps = code.select(code.compare("ne", apart, 0), apart_steps, images * (last - first), "i64")
    step = step_of(code, step_of(code, atomics.load(code, board, words.NOW)) + 1)
    put(code, board, words.FIELDS_AT, code.emit("i64", f"ptrtoint ptr {fields} to i64"))
    put(code, board, words.FIRST, step)
    put(code, board, words.LAST, step_of(code, step + steps))
    atomics.store(code, board, words.OWNERS, threads, "monotonic")
    atomics.store(code, board, words.PATIENCE, word(code, fields, FIELDS.index("patience")), "monotonic")
    atomics.store(code, board, words.LEFT, 0, "monotonic")
    code.invoke("open", board, step)
    return code


def _join(target: Target) -> Code:
    """`join(fields)`: take part in a call that has begun, as one of the threads of a parallel region."""
    code = Code(target, "join", fields="ptr")
    (fields,) = code.arguments
    board = _board(code, fields)
    seat = wide(code, code.emit("i32", f"call i32 {pointer(code, word(code, board, words.NUMBER))}()"))
    code.invoke("serve", board, seat, word(code, board, words.LAST))
    code.invoke("leave", board, seat)
    return code


def _alone(target: Target) -> Code:
    """`alone(fields)`: run a call, with whoever of the board's team comes."""
    code = Code(target, "alone", fields="ptr")
    (fields,) = code.arguments
    board = _board(code, fields)
    code.invoke("begin", fields)
    code.invoke("serve", board, code.value(0, "i64"), word(code, board, words.LAST))
    return code


def _team(target: Target) -> Code:
    """`team(fields)`: run a call with a team that is free, or alone."""

    def with_team(code: Code, fields: Value) -> None:
        code.invoke("alone", fields)

    return _taking(target, "team", with_team)


def _region(target: Target) -> Code:
    """`region(fields)`: run a call in a parallel region of OpenMP's, at whose end all its threads meet.

    Without a board that is free it runs alone: so many regions at once have threads enough.
    """

    def in_region(code: Code, fields: Value) -> None:
        code.invoke("begin", fields)
        parallel = pointer(code, word(code, _board(code, fields), words.PARALLEL))
        threads = word(code, fields, FIELDS.index("threads"))
        threads = code.emit("i32", f"trunc i64 {threads} to i32")
        code.line(f"call void {parallel}(ptr @join, ptr {fields}, i32 {threads}, i32 0)")

    return _taking(target, "region", in_region)


def _taking(target: Target, name: str, run: Callable[[Code, Value], None]) -> Code:
    """Write a function that takes one of the boards that are free and runs a call with it; else alone.

    It is taken and given back here, where nothing can come in between: not even an exception that a signal's
    handler raises.
    """
    code = Code(target, name, fields="ptr")
    (fields,) = code.arguments
    teams = pointer(code, word(code, fields, FIELDS.index("teams")))
    place = code.memory(1)
    put(code, place, 0, 0)
    look, ask, following, taken, none, done = map(
        code.fresh, ("look", "ask", "following", "taken", "none", "done")
    )
    code.line(f"br label %{look}")
    code.label(look)
    found = word(code, teams, word(code, place, 0))
    code.line(f"br i1 {code.compare('eq', found, 0)}, label %{none}, label %{ask}")
    code.label(ask)
    board = pointer(code, found)
    _, free = atomics.exchange(code, board, words.BUSY, 0, 1)
    code.line(f"br i1 {free}, label %{taken}, label %{following}")
    code.label(following)
    put(code, place, 0, word(code, place, 0) + 1)
    code.line(f"br label %{look}")
    code.label(taken)
    put(code, fields, FIELDS.index("board"), found)
    run(code, fields)
    atomics.store(code, board, words.BUSY, 0)
    code.line(f"br label %{done}")
    code.label(none)
    code.invoke("alone", fields)
    code.line(f"br label %{done}")
    code.label(done)
    return code


def _board(code: Code, fields: Value) -> Value:
    return pointer(code, word(code, fields, FIELDS.index("board")))


def _helper(target: Target) -> Code:
    """`helper(arguments)`: one of a team's threads; its board and its seat stand there."""
    code = Code(target, "helper", arguments="ptr")
    (arguments,) = code.arguments
    board, seat = pointer(code, word(code, arguments, 0)), word(code, arguments, 1)
    code.invoke("serve", board, seat, code.value(-1, "i64"))
    return code


def _rest(target: Target) -> Code:
    """`rest(count)`: wait for so many pauses, to find out how long they take."""
    code = Code(target, "rest", count="i64")
    for _ in code.each(0, code.arguments[0]):
        atomics.pause(code)
    return code


def _call(code: Code, function: str, *values: Value) -> Value:
    given = ", ".join(f"{v.type} {v}" for v in values)
    return code.emit("i64", f"call i64 @{function}({given})")
