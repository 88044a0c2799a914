"""The words by which threads agree who does what: a team's board.

It is memory that is never given back: a thread that is late may look at it at any time, after the call and in
the next one. All else belongs to the call, and is touched only by a thread that has claimed a chunk and not
yet said that it is done, for which the call waits.

- `NOW` is the number of the step that is open, and how many chunks a share has in it: none between calls.
  The number grows by one with each step of each call, so what a late thread has read of an earlier step fits
  no other: its claim fails.
- A word for each share says how many of its chunks are claimed from the front and from the end, and of which
  step; where that is an earlier one, none is. It is changed by compare-and-exchange only.
- `DONE` counts the chunks of the open step that are done, `SLEEPERS` the threads that sleep or are about to,
  `LEFT` those of a parallel region that have come to the call's end; `BUSY` is 1 while a call has this team.
- `ASLEEP`, beside each share, is 1 while its thread sleeps in its `LOCK`, or is about to. Who sets it back
  gives the lock back too, once, and the thread takes it once: a lock of Python's is all that it needs.

On CPUs that reorder what they do in memory, as AArch64's, all of this holds by the orders of these words
alone. What a call is about is written before `NOW` is released, and read by who has acquired that `NOW` and
then claimed. What a chunk has computed is written before it is counted in `DONE`; the counts are one chain
of changes, so who counts the last one has acquired them all, and releases them with the next `NOW`. Words
that are read without an order only decide what is tried: claims are decided by compare-and-exchange. Who is
about to sleep writes `SLEEPERS` and `ASLEEP` and then reads `NOW`, who opens a step does it the other way
round: these are sequentially consistent, for with less each could miss the other's word, and the sleeper
would not be waked.
"""

from __future__ import annotations

from regroup.kernels.language import atomics
from regroup.kernels.language.code import Code, Value
from regroup.kernels.language.words import pointer, put, word
from regroup.kernels.machine.target import Target
from regroup.kernels.program.runner import CLAIM_BITS, FIELDS, MOST_CLAIMS, STEP_BITS

APART = 16
"""Words from one that changes often to the next: two cache lines, since CPUs fetch pairs of them."""

NOW, DONE, SLEEPERS, LEFT, BUSY = range(5)
_CALL = APART
FIELDS_AT, FIRST, LAST, OWNERS, PATIENCE = range(_CALL, _CALL + 5)
"""Of the call: its fields, its first step, the number after its last, the number of shares, and after how
many pauses a thread is late.
"""

LATE_AT, WAIT, WAIT_FOR_CALL, LATE, ACQUIRE, RELEASE, PARALLEL, NUMBER, COUNT, STUMBLE, SLEEP = range(
    _CALL + 5, _CALL + 16
)
"""Of the machine: address of the count of `crowd.py`; how long to wait awake for a step, and for a call, in
pauses, and after how many a thread is late with a small piece of work; the C functions that take a lock and
give it back; OpenMP's parallel region, a thread's number in it and how many there are. For tests: by up to
how many microseconds threads stumble now and then; `usleep`.
"""

SHARES = 2 * APART

ASLEEP, LOCK = APART // 2, APART // 2 + 1
"""Words after a share's own, in another cache line."""

_STEP = (1 << STEP_BITS) - 1


def board_words(threads: int) -> int:
    """Return the words of a board."""
    return SHARES + threads * APART


def codes(target: Target) -> list[Code]:
    """Return the functions that change a board: `claim`, `sleep`, `wake`, `open` and `finish`."""
    return [part(target) for part in (_claim, _sleep, _wake, _open, _finish)]


def _claim(target: Target) -> Code:
    """`i64 claim(board, owner, now, mine)`: the number of a chunk of a share, -1 if there is none.

    `mine` is 1 for the first that is left, 0 for the last.
    """
    code = Code(target, "claim", board="ptr", owner="i64", now="i64", mine="i64")
    code.type = "i64"
    board, owner, now, mine = code.arguments
    step, count = step_of(code, now), _shifted(code, now, STEP_BITS)
    place = owner * APART + SHARES
    own = code.compare("ne", mine, 0)
    more = code.select(own, 1 << STEP_BITS + CLAIM_BITS, 1 << STEP_BITS, "i64")
    first = atomics.load(code, board, place, "monotonic")
    entry, again, fresh, taken, none = code.block, *map(code.fresh, ("again", "fresh", "taken", "none"))
    code.line(f"br label %{again}")
    code.label(again)
    phi = len(code.lines)
    found = Value(code, "%found", "i64")
    its_step = step_of(code, found)
    # how much earlier its step is, in the upper bits, so that the sign is right when the numbers begin anew
    behind = code.emit("i64", f"shl i64 {step - its_step}, {64 - STEP_BITS}")
    later = code.compare("slt", behind, 0)
    word_now = code.select(code.compare("eq", behind, 0), found, step, "i64")
    front = _shifted(code, word_now, STEP_BITS + CLAIM_BITS)
    back = code.binary("and", _shifted(code, word_now, STEP_BITS), MOST_CLAIMS)
    left = code.compare("slt", front + back, count)
    possible = code.binary("and", left, code.binary("xor", later, code.value(1, "i1")))
    code.line(f"br i1 {possible}, label %{fresh}, label %{none}")
    code.label(fresh)
    changed = code.emit("i64", f"add i64 {word_now}, {more}")
    actual, success = atomics.exchange(code, board, place, found, changed)
    code.line(f"br i1 {success}, label %{taken}, label %{again}")
    code.lines[phi:phi] = [f"{found} = phi i64 [ {first}, %{entry} ], [ {actual}, %{fresh} ]"]
    code.label(taken)
    number = code.select(own, front, count - back - 1, "i64")
    code.line(f"ret i64 {number}")
    code.label(none)
    code.end = "ret i64 -1"
    return code


def _sleep(target: Target) -> Code:
    """`sleep(board, seat, now)`: sleep until another step is open; it may end earlier."""
    code = Code(target, "sleep", board="ptr", seat="i64", now="i64")
    board, seat, now = code.arguments
    place = seat * APART + SHARES
    atomics.store(code, board, place + ASLEEP, 1, "seq_cst")
    is_open = code.compare("ne", atomics.load(code, board, NOW, "seq_cst"), now)
    awake, asleep, done = map(code.fresh, ("awake", "asleep", "done"))
    code.line(f"br i1 {is_open}, label %{awake}, label %{asleep}")
    code.label(awake)
    _, mine = atomics.exchange(code, board, place + ASLEEP, 1, 0, "seq_cst")
    code.line(f"br i1 {mine}, label %{done}, label %{asleep}")  # else the lock has been given back, or will
    code.label(asleep)
    take, lock = (pointer(code, word(code, board, i)) for i in (ACQUIRE, place + LOCK))
    code.emit("i32", f"call i32 {take}(ptr {lock}, i32 1)")
    code.line(f"br label %{done}")
    code.label(done)
    return code


def _wake(target: Target) -> Code:
    """`wake(board)`: wake all who sleep."""
    code = Code(target, "wake", board="ptr")
    (board,) = code.arguments
    for seat in code.each(0, word(code, board, OWNERS)):
        place = code.value(seat, "i64") * APART + SHARES
        _, mine = atomics.exchange(code, board, place + ASLEEP, 1, 0, "seq_cst")
        for _ in code.when(mine):
            give, lock = (pointer(code, word(code, board, i)) for i in (RELEASE, place + LOCK))
            code.line(f"call void {give}(ptr {lock})")
    return code


def _open(target: Target) -> Code:
    """`open(board, step)`: open a step of the call that is under way, or end it; only one thread may."""
    code = Code(target, "open", board="ptr", step="i64")
    code.internal = True
    board, step = code.arguments
    atomics.store(code, board, DONE, 0, "monotonic")
    fields = pointer(code, word(code, board, FIELDS_AT))
    over = code.compare("eq", step, word(code, board, LAST))
    first_step, last_step, images, threads, apart, claims = (
        word(code, fields, FIELDS.index(name))
        for name in ("first_step", "last_step", "images", "threads", "image_per_thread", "claims")
    )
    count = code.memory(1)
    put(code, count, 0, 0)
    for _ in code.when(code.compare("eq", code.emit("i64", f"zext i1 {over} to i64"), 0)):

        def shared() -> None:
            turn = step_of(code, step - word(code, board, FIRST))
            now = first_step + turn % (last_step - first_step)
            put(code, count, 0, word(code, pointer(code, claims), now))

        def images_apart() -> None:
            share = (images + threads - 1) // threads
            put(code, count, 0, code.smaller(share, MOST_CLAIMS))

        code.either(code.compare("ne", apart, 0), images_apart, shared)
    chunks = code.emit("i64", f"shl i64 {word(code, count, 0)}, {STEP_BITS}")
    # in one order with the words of those who are about to sleep: they see this, or this sees them
    atomics.store(code, board, NOW, code.binary("or", chunks, step), "seq_cst")
    asleep = atomics.load(code, board, SLEEPERS, "seq_cst")
    for _ in code.when(code.compare("ne", asleep, 0)):
        code.invoke("wake", board)
    return code


def _finish(target: Target) -> Code:
    """`finish(board, seat, now, count, memory)`: say that chunks are done; after the last, open a step."""
    code = Code(target, "finish", board="ptr", seat="i64", now="i64", count="i64", memory="ptr")
    code.internal = True
    board, seat, now, count, memory = code.arguments
    atomics.fetch(code, board, seat * APART + SHARES)  # another may have looked at it; it is changed next
    # before the word that says so, since the call may end, and another begin, right after it
    total = _shifted(code, now, STEP_BITS) * word(code, board, OWNERS)
    before = atomics.add(code, board, DONE, count)
    for _ in code.when(code.compare("eq", before + count, total)):
        code.invoke("stumble", board, memory)
        code.invoke("open", board, step_of(code, step_of(code, now) + 1))
    return code


def step_of(code: Code, number: Value) -> Value:
    """Return the number of a step, which begins anew after the largest."""
    return code.binary("and", number, _STEP)


def _shifted(code: Code, number: Value, bits: int) -> Value:
    return code.emit("i64", f"lshr i64 {number}, {bits}")
