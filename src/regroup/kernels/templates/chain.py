"""Problems one after the other, band of rows by band of rows, so that what lies between stays in cache.

Each link runs its own kernel on a range of rows. Its output is a buffer that holds the rows of a band: those
that the next link reads again in the next band are moved to the front, the rest is computed. A thread's first
band computes all its rows, so ranges of rows are independent: they are the work items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.words import put, word
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Chain, Conv, Pointwise, Pool, Problem
from regroup.kernels.problems.view import View
from regroup.kernels.templates.base import Kernel, Parameters, ceil_div, whole_lines
from regroup.kernels.templates.parts.fetch import goes_on
from regroup.kernels.templates.parts.stage import fill

Banded = Callable[[Problem, Target], Kernel]


@dataclass(frozen=True)
class RowWindow:
    """Rows of a link's input that a row of its output needs: `y * stride - before` and `reach - 1` more."""

    stride: int
    before: int
    reach: int

    @property
    def shared(self) -> int:
        """Rows that two neighbouring rows of the output both need."""
        return max(0, self.reach - self.stride)


class Fused(Kernel):
    """A chain of kernels over bands of rows.

    Args:
        problem: the chain.
        target: the CPU.
        band: rows of the last output in a band.
        choose: finds the kernel of a link whose work items are rows.
    """

    template = "chain"

    def __init__(self, problem: Chain, target: Target, band: int, choose: Banded) -> None:
        super().__init__(problem, target)
        self.band = min(band, problem.y.height)
        links = _connected(problem.links, target.lanes)
        self.links = [choose(link, target) for link in links]
        self.windows = [row_window(link) for link in links]
        self.heights = [link.y.height for link in links]
        self.items = problem.y.height
        self.buffers = [link.y for link in links[:-1]]
        self.room = self._room()
        sizes = [rows * view.row_pitch for rows, view in zip(self.room, self.buffers, strict=True)]
        inner = whole_lines(max(link.scratch for link in self.links))
        self.starts = [inner + sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self.saved = whole_lines(self.starts[-1])
        self.scratch = self.saved + 2 * len(links)
        self.grain = self.band
        self.at = [sum(whole_lines(link.packed) for link in self.links[:i]) for i in range(len(links) + 1)]
        self.packed = self.at[-1]
        self.tile = f"{self.band} rows: " + ", ".join(link.tile for link in self.links)
        self.cycles = sum(link.cycles for link in self.links)

    def _room(self) -> list[int]:
        """Return how many rows of each link's output lie in its buffer at most.

        A band may begin at any row: anew, or where the one before has ended.
        """
        room = [0] * len(self.buffers)
        for first in range(self.items):
            ends = self._needed(min(first + self.band, self.items))
            for done in (self._first(first), self._needed(first)) if first else (self._first(first),):
                for i, window in enumerate(self.windows[1:]):
                    base = done[i + 1] * window.stride - window.before
                    end = (ends[i + 1] - 1) * window.stride - window.before + window.reach
                    room[i] = max(room[i], end - base)
        return room

    def _first(self, row: int) -> list[int]:
        """Return the first row of each link's output that is needed from `row` of the last one on."""
        rows = [row]
        for window in reversed(self.windows[1:]):
            rows.insert(0, max(0, rows[0] * window.stride - window.before))
        return rows

    def _needed(self, end: int) -> list[int]:
        """Return the row after the last of each link's output that is needed for the rows before `end`."""
        ends = [end]
        for window, height in zip(reversed(self.windows[1:]), reversed(self.heights[:-1]), strict=True):
            ends.insert(0, min((ends[0] - 1) * window.stride - window.before + window.reach, height))
        return ends

    def _pack(self, parameters: Parameters) -> np.ndarray:
        packed = np.zeros(self.packed, np.float32)
        for i, (start, link) in enumerate(zip(self.at[:-1], self.links, strict=True)):
            mine = {k.split(".", 1)[1]: v for k, v in parameters.items() if k.split(".", 1)[0] == str(i)}
            packed[start : start + link.packed] = link.pack(mine)
        return packed

    def _emit(self, name: str) -> list[Code]:
        inner = [code for i, link in enumerate(self.links) for code in link.emit(f"{name}_{i}")]
        for code in inner:
            code.internal = True
        return [*inner, _Writer(self, name).code]


class _Writer:
    def __init__(self, kernel: Fused, name: str) -> None:
        self.kernel, self.name = kernel, name
        self.code, views = kernel._open(name)
        code = self.code
        _, low, high, scratch = code.arguments
        self.weights = views.pop() if kernel.packed else None
        self.places = self._places(views)
        self.buffers = [scratch + start for start in kernel.starts[:-1]]
        self.scratch = scratch
        rows = scratch + kernel.saved  # those that each link has computed, for a call that goes on here
        for _ in code.when(code.compare("slt", low, high)):
            for _ in code.when(code.compare("eq", goes_on(code), 0)):
                done = self._first_rows(low)
                for i, view in enumerate(kernel.buffers):
                    self._clear(i, view, done[i + 1])
                for i, row in enumerate(done):
                    put(code, rows, i, row)
            done = [word(code, rows, i) for i in range(len(kernel.links))]
            done = code.carry(low, high, kernel.band, done, lambda row, done: self._band(row, high, done))
            for i, row in enumerate(done):
                put(code, rows, i, row)

    def _places(self, views: list[Value]) -> list[list[Value]]:
        """Return each link's pointers to places: its first or None-d input, extras, and the last output."""
        rest, places = list(views), []
        for i, link in enumerate(self.kernel.links):
            count = len(link.problem.views) - 1 - min(i, 1)
            places.append([rest.pop(0) for _ in range(count)])
        places[-1].append(rest.pop(0))
        return places

    def _first_rows(self, first: Operand) -> list[Operand]:
        """Return the first row of each link's output that a thread's first band needs."""
        rows = [first]
        for i in reversed(range(len(self.kernel.buffers))):
            window = self.kernel.windows[i + 1]
            rows.insert(0, self.code.larger(rows[0] * window.stride - window.before, 0))
        return rows

    def _clear(self, i: int, view: View, following: Operand) -> None:
        """Zero the columns beside a buffer's rows, and rows above the image."""
        code, halo, buffer = self.code, view.halo, self.buffers[i]
        window = self.kernel.windows[i + 1]
        for row in code.each(0, self.kernel.room[i], name="row"):
            at = buffer + row * view.row_pitch
            fill(code, at, 0, halo.left * view.pixel_pitch)
            fill(code, at, (halo.left + view.width) * view.pixel_pitch, view.row_pitch)
        above = code.integer(window.before) - following * window.stride
        for row in code.each(0, above, name="row") if window.before > 0 else ():
            fill(code, buffer + row * view.row_pitch, 0, view.row_pitch)

    def _band(self, row: Operand, high: Operand, done: list[Value]) -> list[Value]:
        """Write the band from `row` on, which ends at row `high` at the latest.

        `done` holds the row after the last that each link has computed.
        """
        code, kernel = self.code, self.kernel
        ends = [code.smaller(code.integer(row) + kernel.band, high)]
        needed = []
        for i in reversed(range(len(kernel.buffers))):
            window = kernel.windows[i + 1]
            needed.insert(0, (ends[0] - 1) * window.stride + (window.reach - window.before))
            ends.insert(0, code.smaller(needed[0], kernel.heights[i]))
        bases = []
        for i, window in enumerate(kernel.windows[1:]):
            bases.append(done[i + 1] * window.stride - window.before)
        for i in range(len(kernel.links)):
            self._link(i, done[i], ends[i], bases)
            if i < len(kernel.buffers):
                self._below(i, bases[i], ends[i], needed[i])
        for i, window in enumerate(kernel.windows[1:]):
            following = ends[i + 1] * window.stride - window.before
            self._move(i, following - bases[i], ends[i] - bases[i])
        return ends

    def _link(self, i: int, low: Value, high: Value, bases: list[Value]) -> None:
        code, kernel, link = self.code, self.kernel, self.kernel.links[i]
        places = list(self.places[i])
        if i > 0:
            places.insert(0, self._origin(i - 1, bases[i - 1]))
        if i < len(kernel.buffers):
            places.append(self._origin(i, bases[i]))
        if link.packed and self.weights is not None:
            places.append(self.weights + kernel.at[i])
        table = code.pointers(places)
        code.note(f"link {i}: {link.template}")
        code.invoke(f"{self.name}_{i}", table, low * link.per_unit, high * link.per_unit, self.scratch)

    def _origin(self, i: int, base: Value) -> Value:
        """Return where row 0 of the whole output of link `i` would be, if its buffer begins at row `base`."""
        view = self.kernel.buffers[i]
        return self.buffers[i] + view.halo.left * view.pixel_pitch - base * view.row_pitch

    def _below(self, i: int, base: Value, end: Value, needed: Value) -> None:
        """Zero the rows below the image that the next link reads."""
        view = self.kernel.buffers[i]
        for row in self.code.each(end - base, needed - base, name="row"):
            fill(self.code, self.buffers[i] + row * view.row_pitch, 0, view.row_pitch)

    def _move(self, i: int, start: Value, end: Value) -> None:
        """Move the rows from `start` on to the front of the buffer."""
        if self.kernel.windows[i + 1].reach <= self.kernel.windows[i + 1].stride:
            return
        code, view, buffer = self.code, self.kernel.buffers[i], self.buffers[i]
        code.note(f"rows of link {i} that the next band needs again")
        for row in code.each(code.integer(0), end - start, name="row"):
            source, target = buffer + (row + start) * view.row_pitch, buffer + row * view.row_pitch
            inner = view.width * view.pixel_pitch
            left = view.halo.left * view.pixel_pitch
            whole = inner - inner % code.lanes
            for c in code.each(0, whole, code.lanes, name="c") if whole else ():
                code.store(code.load(source + c + left), target + c + left)
            if inner > whole:
                rest = code.load(source + (whole + left), inner - whole)
                code.store(rest, target + (whole + left), inner - whole)


def _connected(links: tuple[Problem, ...], lanes: int) -> list[Problem]:
    """Return the links with their bands' views: whole vectors a pixel, zeros as the next link needs."""
    links_ = list(links)
    for i in range(len(links_) - 1):
        y, need = links_[i].y, links_[i + 1].x_halo
        halo = replace(need, top=0, bottom=0)
        pitch = ceil_div(y.channels, lanes) * lanes if y.channels > lanes else y.channels
        band = View.nhwc(y.height, y.width, y.channels, halo=halo, pitch=pitch)
        links_[i] = replace(links_[i], y=band)
        links_[i + 1] = replace(links_[i + 1], x=band)
    return links_


def row_window(link: Problem) -> RowWindow:
    """Return which rows of its input a link needs."""
    if isinstance(link, Conv | Pool):
        return RowWindow(link.stride[0], link.padding[0], (link.kernel_size[0] - 1) * link.dilation[0] + 1)
    return RowWindow(1, 0, 1)


def candidates(chain: Chain, target: Target, choose: Banded) -> list[Fused]:
    """Return chains of some bands whose buffers fit in half of a core's second-level cache."""
    if not all(isinstance(link, Conv | Pool | Pointwise) for link in chain.links):
        return []
    bands = [chain.band] if chain.band else [8, 4, 2, 1]
    made = [Fused(chain, target, band, choose) for band in bands if band <= max(1, chain.y.height)]
    fitting = [kernel for kernel in made if kernel.scratch * 4 <= target.l2 // 2]
    return (fitting or made[-1:])[:1]
