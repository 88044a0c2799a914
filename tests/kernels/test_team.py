"""Threads share the work of a call: each chunk is done once, whoever comes, and whenever."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit, workers
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Chain, Conv, Epilogue, Pointwise, Pool
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.program import Call, Part, Program, Step, build, layout, team
from regroup.kernels.program import board as words
from regroup.kernels.program import region as region_module
from regroup.kernels.program.region import Region
from regroup.kernels.program.runner import MOST_CLAIMS, STEP_BITS
from tests.processes import in_fork

_ROOM = Halo(1, 1, 1, 1)
_RELU = Epilogue(activation="relu")


def _steps() -> list[Step]:
    """A network with a chain, Winograd's algorithm, and two parts in a step."""
    torch.manual_seed(0)
    a = View.nhwc(30, 30, 24, halo=_ROOM).placed(0)
    b = View.nhwc(30, 30, 64, halo=_ROOM).placed(a.floats)
    c = View.nhwc(30, 30, 64).placed(a.floats + b.floats)
    first = Conv(
        View.nchw(60, 60, 3, buffer=2), a, epilogue=_RELU, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)
    )
    wide = View.nhwc(30, 30, 48)
    links = (
        Conv(a, wide, epilogue=_RELU),
        Conv(wide, wide, kernel_size=(3, 3), padding=(1, 1), groups=48),
        Conv(wide, b),
    )
    square = Conv(b, c, kernel_size=(3, 3), padding=(1, 1))
    y = replace(View.nhwc(15, 15, 80), buffer=3)
    pools = [
        Pool(c.slice(0, 40), y.slice(0, 40), kernel_size=(2, 2), stride=(2, 2)),
        Conv(c, y.slice(40, 40), kernel_size=(1, 1), stride=(2, 2)),
    ]
    steps = [[first], [Chain(a, b, links)], [square], pools]
    return [
        Step(str(i), tuple(Part(problem, _numbers(problem)) for problem in problems))
        for i, problems in enumerate(steps)
    ]


def _numbers(problem: Conv | Chain | Pool) -> dict[str, np.ndarray]:
    return {n: torch.randn(shape).numpy() / 8 for n, shape in problem.parameters.items()}


def _run(program: Program, x: torch.Tensor, threads: int, *, apart: bool = False) -> torch.Tensor:
    arena = program.new_arena(threads, apart)
    arena[:] = np.nan
    y = torch.full((len(x), 15 * 15 * 80), torch.nan)
    strides = [x[0].numel(), y[0].numel()]
    buffers = [arena.ctypes.data, x.data_ptr(), y.data_ptr()]
    program.run(buffers, threads=threads, images=len(x), strides=strides, image_per_thread=apart)
    return y


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    return _steps()


@pytest.fixture(scope="module")
def program(steps) -> Program:
    made = build(steps)
    templates = {choice.template for choices in made.choices for choice in choices}
    assert {"chain", "winograd", "pool"} <= templates
    return made


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(3, 3, 60, 60)


@pytest.fixture(scope="module")
def want(program, x) -> torch.Tensor:
    return _run(program, x, 1)


@pytest.fixture(params=["whichever", "ours"])
def stumbling(program, monkeypatch, request) -> Region:
    """A region whose threads lose their core in every fourth place where that might matter."""
    region = _region(stumble=200, ours=request.param == "ours")
    monkeypatch.setattr(program.layout, "region", region)
    return region


def _region(stumble: int = 0, *, ours: bool = True) -> Region:
    region = Region(Target.host(), stumble)
    if ours:
        region.run = lambda fields, threads, board, preference: Region.run(region, fields, threads, board)
    return region


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_that_lose_their_core_anywhere_change_no_bit(program, x, want, threads, stumbling):
    for i in range(30):
        assert torch.equal(_run(program, x, threads, apart=i % 3 == 0), want)


def test_a_call_whose_threads_never_come_does_all_by_itself(program, x, want, monkeypatch):
    monkeypatch.setattr(program.layout, "region", _region())
    monkeypatch.setattr(workers, "start", lambda function, argument: False)
    for apart in (False, True):
        assert torch.equal(_run(program, x, 4, apart=apart), want)


def test_callers_with_other_programs_and_numbers_of_threads_share_the_threads(
    program, steps, x, want, stumbling
):
    other = build(steps[:1])
    other.layout.region = stumbling
    wrong = []

    def call(number: int) -> None:
        rng = Random(number)
        for _ in range(12):
            if not torch.equal(_run(program, x, rng.choice([1, 2, 2, 3]), apart=rng.random() < 0.5), want):
                wrong.append(number)
            arena = other.new_arena(2)
            other.run([arena.ctypes.data, x.data_ptr()], threads=2, images=3, strides=[x[0].numel()])

    callers = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_threads_of_pytorch_share_the_work_in_the_same_way(program, x, want, stumbling):
    for threads in (2, 3):
        arena = program.new_arena(threads)
        y = torch.full_like(want, torch.nan)
        strides = [x[0].numel(), y[0].numel()]
        call = Call(program, arena.ctypes.data, threads, False, strides)
        for _ in range(10):
            y.fill_(torch.nan)
            call(len(x), [x.data_ptr(), y.data_ptr()])
            assert torch.equal(y, want)


@pytest.mark.parametrize("cycles", [1.0, 3e3, 1e12])
def test_chunks_of_any_size_give_the_same_bits(program, x, want, cycles, monkeypatch):
    monkeypatch.setattr(layout, "_CHUNK", cycles)
    for threads in (1, 2, 3):
        for _ in range(3):
            assert torch.equal(_run(program, x, threads), want)


def test_a_chain_goes_on_only_where_the_same_image_was_left(monkeypatch):
    monkeypatch.setattr(layout, "_CHUNK", 1.0)
    x, wide = replace(View.nhwc(28, 9, 16), buffer=2), View.nhwc(28, 9, 32)
    y = replace(View.nhwc(28, 9, 16), buffer=3)
    links = (
        Conv(x, wide, epilogue=_RELU),
        Conv(wide, wide, kernel_size=(3, 3), padding=(1, 1), groups=32),
        Conv(wide, y),
    )
    problem = Chain(x, y, links, band=1)
    program = build([Step("chain", (Part(problem, _numbers(problem)),))])
    program.layout.region = _region(stumble=20)
    given = torch.randn(40, x.floats)
    got = [torch.full_like(given, torch.nan) for _ in range(12)]
    for i, one in enumerate(got):
        threads = 1 + i % 4
        arena = program.new_arena(threads)
        arena[:] = np.nan
        buffers = [arena.ctypes.data, given.data_ptr(), one.data_ptr()]
        program.run(buffers, threads=threads, images=len(given), strides=[x.floats] * 2)
    assert all(torch.equal(one, got[0]) for one in got)


@pytest.mark.parametrize("cycles", [1.0, 1e4, 1e12])
@pytest.mark.parametrize("threads", [1, 2, 5, 64])
def test_chunks_are_each_item_once(program, cycles, threads, monkeypatch):
    monkeypatch.setattr(layout, "_CHUNK", cycles)
    chunks, claims = program.layout.chunks(threads)
    rows = iter(chunks.tolist())
    for kernels, count in zip(program.layout.kernels, claims, strict=True):
        following = 0
        for kernel in kernels:
            first, number, size = next(rows)
            assert first == following, "chunks are counted through the step"
            following += number
            done: Counter[int] = Counter()
            for owner in range(threads):
                low, high = (kernel.items * n // threads for n in (owner, owner + 1))
                for i in range(number):
                    done.update(range(low + i * size, min(low + (i + 1) * size, high)))
            assert done == Counter(range(kernel.items))
        assert count == following <= MOST_CLAIMS


# -- the words by which threads agree


@pytest.fixture(scope="module")
def claim():
    address = Region.of(Target.host()).loaded.address("claim")
    whole = ctypes.c_int64
    call = ctypes.CFUNCTYPE(whole, ctypes.c_void_p, whole, whole, whole)(address)

    def claimed(board: np.ndarray, owner: int, step: int, count: int, *, mine: bool) -> int:
        now = ctypes.c_int64(count << STEP_BITS | step % (1 << STEP_BITS))
        return call(board.ctypes.data, owner, now, int(mine))

    return claimed


@pytest.mark.parametrize("step", [1, 5, (1 << STEP_BITS) - 1, 1 << STEP_BITS])
def test_chunks_are_claimed_from_both_ends_until_there_are_none(claim, step):
    board = workers.shared_words(words.board_words(2))
    board[words.SHARES :] = (step - 1) % (1 << STEP_BITS)
    ends = (True, False, True, False, True, True, False)
    assert [claim(board, 1, step, 5, mine=mine) for mine in ends] == [0, 4, 1, 3, 2, -1, -1]
    assert claim(board, 0, step, 5, mine=False) == 4, "another share"
    assert claim(board, 1, step, 0, mine=True) == -1, "no step is open"


@pytest.mark.parametrize("step", [5, 1 << STEP_BITS])
def test_a_claim_for_a_step_that_is_over_fails_and_changes_nothing(claim, step):
    board = workers.shared_words(words.board_words(1))
    assert claim(board, 0, step, 1, mine=True) == 0
    before = board.copy()
    for earlier in (step - 1, step - 2, step - 1000):
        for mine in (True, False):
            assert claim(board, 0, earlier, 3, mine=mine) == -1
    assert (board == before).all()
    assert claim(board, 0, step + 1, 1, mine=True) == 0, "the next one has all its chunks"


def test_numbers_of_steps_may_begin_anew_in_a_call(program, x, want, monkeypatch):
    region = _region()
    monkeypatch.setattr(program.layout, "region", region)
    arena, y = program.new_arena(2), torch.full_like(want, torch.nan)
    call = Call(program, arena.ctypes.data, 2, False, [x[0].numel(), y[0].numel()])
    call(1, [x.data_ptr(), y.data_ptr()])
    (teams,) = region._teams.values()
    (board,) = teams.boards
    board[words.NOW] = (1 << STEP_BITS) - 5
    board[words.SHARES :: words.APART] = (1 << STEP_BITS) - 5
    for _ in range(3):
        y.fill_(torch.nan)
        call(len(x), [x.data_ptr(), y.data_ptr()])
        assert torch.equal(y, want)
    assert board[words.NOW] < 100


def test_no_steps_and_no_images_are_no_work(program, x):
    arena = program.new_arena(2)
    y = torch.zeros(len(x), 15 * 15 * 80)
    buffers, strides = [arena.ctypes.data, x.data_ptr(), y.data_ptr()], [x[0].numel(), y[0].numel()]
    for apart in (False, True):
        program.run(buffers, threads=2, images=3, strides=strides, steps=(1, 1), image_per_thread=apart)
        program.run(buffers, threads=2, images=0, strides=strides, image_per_thread=apart)
    assert not y.any()


def test_more_images_than_a_share_has_claims_are_all_done():
    x, y = View.vector(4, buffer=2), View.vector(4, buffer=3)
    program = build([Step("half", (Part(Pointwise(x, y, epilogue=_RELU)),))])
    images = 2 * MOST_CLAIMS + 1001
    given, got = torch.randn(images, 4), torch.full((images, 4), torch.nan)
    for apart in (False, True):
        arena = program.new_arena(2, apart)
        buffers = [arena.ctypes.data, given.data_ptr(), got.fill_(torch.nan).data_ptr()]
        program.run(buffers, threads=2, images=images, strides=[4, 4], image_per_thread=apart)
        assert torch.equal(got, given.relu())


def _threads() -> set[Path]:
    return set(Path("/proc/self/task").iterdir())


def test_threads_are_there_once_and_leave_signals_to_python(program, x, monkeypatch):
    monkeypatch.setattr(program.layout, "region", _region())
    before = _threads()
    _run(program, x, 3)
    added = _threads() - before
    assert len(added) == 2
    for thread in added:
        (blocked,) = (t for t in (thread / "status").read_text().splitlines() if t.startswith("SigBlk"))
        assert int(blocked.split()[1], 16) >> (signal.SIGINT - 1) & 1
    for _ in range(20):
        _run(program, x, 3)
    assert _threads() == before | added


def test_an_exception_by_a_signal_never_costs_a_team(program, x, want, monkeypatch):
    region = _region(stumble=50)
    monkeypatch.setattr(program.layout, "region", region)
    raised = 0

    def handler(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(60):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + i * 3e-5)
                for _ in range(20):
                    _run(program, x, 2)
            except KeyboardInterrupt:
                raised += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert raised
    assert torch.equal(_run(program, x, 2), want)  # on a slow machine no call has come so far until now
    (teams,) = region._teams.values()
    assert len(teams.boards) == 1 and not teams.are_busy()


def test_an_exception_by_a_signal_leaves_no_signal_blocked(monkeypatch):
    """Python runs a handler that is due right after it has blocked the signals."""
    mask = signal.pthread_sigmask

    def interrupted(how, signals):
        before = mask(how, signals)
        if how == signal.SIG_BLOCK and signals:
            raise KeyboardInterrupt
        return before

    before = mask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.start(0, 0)
    blocked = mask(signal.SIG_SETMASK, before)
    assert blocked == before


def test_a_forked_process_has_threads_of_its_own(program, x, want):
    def child() -> None:
        before = len(_threads())
        right = all(np.array_equal(_run(program, x, 3).numpy(), want.numpy()) for _ in range(5))
        print(right, len(_threads()) - before)

    _run(program, x, 3)
    assert in_fork(child).stdout == "True 2\n"


@pytest.fixture
def drowsy(program, monkeypatch) -> Region:
    """A region as it is where there is no OpenMP, whose threads sleep whenever there is nothing to do."""
    monkeypatch.setattr(region_module, "entry_points", lambda: None)
    region = Region(Target.host(), stumble=5)
    region._waits = [1, 1, 1]
    monkeypatch.setattr(program.layout, "region", region)
    return region


def _calls(program, x, want, *, count: int) -> bool:
    """Tell whether calls are right that may choose whose threads they run on."""
    arena, y = program.new_arena(3), torch.full_like(want, torch.nan)
    call = Call(program, arena.ctypes.data, 3, False, [x[0].numel(), y[0].numel()])
    right = True
    for _ in range(count):
        y.fill_(torch.nan)
        call(len(x), [x.data_ptr(), y.data_ptr()])
        right = right and np.array_equal(y.numpy(), want.numpy())
    return right


def test_where_there_is_no_openmp_threads_of_our_own_do_the_work(program, x, want, drowsy):
    before = len(_threads())
    assert _calls(program, x, want, count=200)
    assert len(_threads()) == before + 2

    def child() -> None:
        before = len(_threads())  # an emulator has one of its own
        print(_calls(program, x, want, count=50), len(_threads()) - before)

    assert in_fork(child).stdout == "True 2\n"


def test_who_wakes_sleepers_gives_each_lock_back_once(drowsy):
    wake = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(drowsy.loaded.address("wake"))
    sleep = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        drowsy.loaded.address("sleep")
    )
    drowsy._table(2, ours=False)
    ((board,),) = (teams.boards for teams in drowsy._teams.values())
    board[[words.NOW, words.OWNERS]] = 7, 2
    asleep = words.SHARES + words.APART + words.ASLEEP
    sleep(board.ctypes.data, 1, 6)
    assert not board[asleep], "another step is open: nobody sleeps"
    for _ in range(50):
        sleeper = threading.Thread(target=sleep, args=(board.ctypes.data, 1, 7))
        sleeper.start()
        while not board[asleep]:
            pass
        for _ in range(3):
            wake(board.ctypes.data)
        sleeper.join()
        assert not board[asleep]


@pytest.mark.parametrize("target", [Target.avx512(), Target.avx2(), Target.neon()], ids=lambda t: t.name)
def test_the_code_is_made_for_every_target(target):
    text = assembly(team.codes(target))
    code = jit.machine_assembly(text, target)
    if target.name == "NEON":
        assert "isb" in code and ("ldar" in code or "ldapr" in code) and ("stlxr" in code or "casal" in code)
    else:
        assert "pause" in code and "lock" in code and "cmpxchg" in code
