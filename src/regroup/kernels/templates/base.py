"""What every template gives: a way to do one problem on one target, its estimated time, packed weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Problem

Parameters = Mapping[str, np.ndarray]

LINE = 16
"""Floats of a cache line."""


class Kernel(ABC):
    """One way to do one problem.

    The generated function is `void name(ptr views, int low, int high, ptr scratch)`, integers as wide as
    addresses: it does the work items
    `low` to `high`, each of which writes outputs of its own, in any order and on any thread. `views` holds a
    pointer for each of `problem.views` and, last, one to the packed weights. Before `scratch` lies the
    thread's `fetch.py` cursor.

    Attributes:
        template: what way it is, for people.
        problem: what to do.
        target: the CPU.
        tile: the blocking, for people.
        items: number of work items.
        rows: output rows of a unit of work where units are rows in order, else 0.
        per_unit: items of a unit.
        grain: items that are best done in one call.
        packed: floats of packed weights.
        rare: floats at their end that are hardly ever read.
        by_weights: items go through the weights in order, so that a range of items needs a range of them.
        scratch: floats of private memory that the function needs.
        cycles: estimated time of all items on one core.
    """

    template: str
    tile: str = ""
    items: int
    rows: int = 0
    per_unit: int = 1
    grain: int = 1
    packed: int = 0
    rare: int = 0
    by_weights: bool = False
    scratch: int = 0
    cycles: float = 0.0

    def __init__(self, problem: Problem, target: Target) -> None:
        self.problem, self.target = problem, target

    def emit(self, name: str) -> list[Code]:
        """Return the function `name` and those it calls."""
        return self._emit(name)

    @abstractmethod
    def _emit(self, name: str) -> list[Code]: ...

    def pack(self, parameters: Parameters) -> np.ndarray:
        """Return the weights as the code reads them: `packed` floats."""
        return self._pack(parameters)

    def _pack(self, parameters: Parameters) -> np.ndarray:
        assert not parameters
        return np.zeros(0, np.float32)

    @property
    def key(self) -> str:
        """All that the generated code depends on."""
        return f"{type(self).__name__} {self.tile} {self.problem!r}"

    def _open(self, name: str) -> tuple[Code, list[Value]]:
        """Start the function: its code, and the pointers of the problem's views, then of the weights."""
        index = f"i{8 * self.target.pointer}"
        code = Code(self.target, name, views="ptr", low=index, high=index, scratch="ptr")
        code.note(f"{self.template} {self.tile}".rstrip())
        names = [*self.problem.view_names, *(["weights"] if self.packed else [])]
        return code, [code.load_pointer(code.arguments[0], i, name) for i, name in enumerate(names)]


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def whole_lines(floats: int) -> int:
    """Return `floats`, rounded up to whole cache lines."""
    return ceil_div(floats, LINE) * LINE


Run = tuple[int, int, int]
"""(start, size, count): pieces of equal size, one after the other."""


def split(total: int, largest: int) -> list[Run]:
    """Cut `total` into near-equal pieces of at most `largest`.

    >>> split(56, 14), split(10, 4)
    ([(0, 14, 4)], [(0, 4, 1), (4, 3, 2)])
    """
    count = ceil_div(total, largest)
    small, larger = divmod(total, count)
    pieces = [(0, small + 1, larger), (larger * (small + 1), small, count - larger)]
    return [piece for piece in pieces if piece[2]]


def runs(total: int, size: int) -> list[Run]:
    """Cut `total` into pieces of `size` and one smaller rest.

    >>> runs(7, 2)
    [(0, 2, 3), (6, 1, 1)]
    """
    whole, rest = divmod(total, size)
    return [run for run in ((0, size, whole), (whole * size, rest, 1)) if run[1] * run[2]]


def pieces(cut: list[Run]) -> int:
    """Return the number of pieces."""
    return sum(count for *_, count in cut)


def choose(code: Code, index: Operand, cut: list[Run], write: Callable[[Operand, Run], None]) -> None:
    """Write `write(start of piece, its run)` for the piece number `index`, one branch a run."""
    (start, size, count), *rest = cut
    if not rest:
        write(index * size + start if count > 1 else start, cut[0])
    elif isinstance(index, int):
        write(index * size + start, cut[0]) if index < count else choose(code, index - count, rest, write)
    else:
        code.either(
            code.compare("slt", index, count),
            lambda: write(index * size + start, cut[0]),
            lambda: choose(code, index - count, rest, write),
        )
