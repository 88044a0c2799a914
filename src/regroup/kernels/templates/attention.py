"""Attention with a vector's lanes for the queries: softmax goes down the keys, no lane meets another.

A head's keys and values are copied beside one another; both products broadcast them, one number at a time, to
a tile of queries, which is turned on its side for that, and the result back:

    scores[key, query] = sum over c of keys[key, c] * turned[c, query]
    result[c, query] = sum over keys of values[key, c] * e ** (scores[key, query] - largest[query])
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.functions import exp
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.attention import Attention
from regroup.kernels.problems.view import View
from regroup.kernels.templates.base import Kernel, Parameters, Run, ceil_div, runs, split, whole_lines
from regroup.kernels.templates.parts.fetch import fetch_ahead
from regroup.kernels.templates.parts.walk import transpose, vectors

_ITEMS = 16
_STRETCH = 64
"""Keys that are summed by themselves before they are added to the rest: long sums round less that way."""


class ByQueries(Kernel):
    """Work items are some queries of one head in one window.

    Scratch memory: the head's keys and values; some queries, turned and not; their scores.

    Args:
        problem: the attention.
        target: the CPU.
        across: vectors of queries in a tile.
    """

    template = "attention"

    def __init__(self, problem: Attention, target: Target, across: int) -> None:
        super().__init__(problem, target)
        self.work, lanes = problem, target.lanes
        self.across, self.wide = across, across * lanes
        self.high = {1: 20, 2: 12}[across] if target.registers == 32 else {1: 10, 2: 6}[across]
        self.queries, self.keys = len(problem.queries.pixels), len(problem.tokens.pixels)
        self.tiles, heads = ceil_div(self.queries, self.wide), problem.heads * len(problem.queries.windows)
        self.parts = max(1, min(ceil_div(_ITEMS, heads), self.tiles // 2))
        self.items = heads * self.parts
        self.tile = f"{self.high}x{across}"
        self.padded = ceil_div(max(problem.depth, problem.width), lanes) * lanes
        sizes = (
            self.keys * problem.depth, self.keys * problem.width, self.padded * self.wide,
            self.padded * self.wide, self.keys * self.wide,
        )  # fmt: skip
        self.starts = [0]
        for size in sizes:
            self.starts.append(self.starts[-1] + whole_lines(size))
        self.scratch = self.starts[-1]
        self.packed = (
            int(np.prod(problem.bias[:2])) * self.tiles * self.keys * self.wide if problem.bias else 0
        )
        self.cycles = self._estimate()

    def _estimate(self) -> float:
        channels = self.work.depth + self.work.width
        product = self.keys * self.across * (channels / 2 + 12)
        turning = self.wide * channels * 0.6
        copied = self.parts * self.keys * (2 + channels / self.target.lanes) * 2
        heads = self.work.heads * len(self.work.queries.windows)
        return heads * (self.tiles * (product + turning) + copied)

    def _pack(self, parameters: Parameters) -> np.ndarray:
        """Return what is added for each tile of queries: key by key, a number for each query."""
        if not self.work.bias:
            return np.zeros(0, np.float32)
        bias = parameters["bias"].astype(np.float32).reshape(-1, self.queries, self.keys)
        table = np.zeros((len(bias), self.tiles * self.wide, self.keys), np.float32)
        table[:, : self.queries] = bias
        return table.reshape(len(bias), self.tiles, self.wide, -1).transpose(0, 1, 3, 2).ravel()

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        writer = _Writer(self, code, views)
        for item in code.each(low, high, name="item"):
            writer.item(item)
        return [code]


class _Writer:
    """Writes the function."""

    def __init__(self, kernel: ByQueries, code: Code, views: list[Value]) -> None:
        self.kernel, self.work, self.code = kernel, kernel.work, code
        self.x, self.k, self.v, self.y, *packed = views
        self.bias = packed[0] if packed else None
        scratch = code.arguments[3]
        self.keys, self.values, self.rows, self.turned, self.scores = (
            scratch + start for start in kernel.starts[:-1]
        )

    def item(self, item: Operand) -> None:
        """Write some queries of one head in one window."""
        kernel, work, code = self.kernel, self.work, self.code
        part, piece = code.integer(item) % kernel.parts, code.integer(item) // kernel.parts
        head, window = piece % work.heads, piece // work.heads
        for pointer, view, depth, copy in (
            (self.k, work.keys, work.depth, self.keys), (self.v, work.values, work.width, self.values),
        ):  # fmt: skip
            source = self._first(pointer, view, head, window, depth, work.tokens.windows)
            for m in code.each(0, kernel.keys, name="key"):
                self._copy(self._pixel(source, view, work.tokens.pixels, m), copy + m * depth, depth)
        x = self._first(self.x, work.x, head, window, work.depth, work.queries.windows)
        y = self._first(self.y, work.y, head, window, work.width, work.queries.windows)
        bias = None if self.bias is None else self._bias(head, window)
        low, high = (
            part * kernel.tiles // kernel.parts,
            (code.integer(part) + 1) * kernel.tiles // kernel.parts,
        )
        for tile in code.each(low, high, name="tile"):
            fetch_ahead(code)
            self._take(x, tile)
            totals = self._weigh(None if bias is None else bias + tile * (kernel.keys * kernel.wide))
            self._mix(totals)
            self._give(y, tile)

    def _first(
        self, pointer: Value, view: View, head: Operand, window: Operand, depth: int, windows: Sequence[int]
    ) -> Value:
        """Return where a head's channels of the first pixel of a window lie."""
        start = pointer if view.channels == depth else pointer + head * depth
        return self._pixel(start, view, windows, window)

    def _pixel(self, pointer: Value, view: View, pixels: Sequence[int], number: Operand) -> Value:
        offsets = [p // view.width * view.row_pitch + p % view.width * view.pixel_pitch for p in pixels]
        step = offsets[-1] // max(1, len(offsets) - 1)
        if offsets == [i * step for i in range(len(offsets))]:
            return pointer + self.code.integer(number) * step
        return pointer + self.code.load_int(self.code.table(offsets), number)

    def _bias(self, head: Operand, window: Operand) -> Value:
        windows, heads, *_ = self.work.bias
        number = self.code.integer(0 if windows == 1 else window) * heads + (0 if heads == 1 else head)
        return self.bias + number * (self.kernel.tiles * self.kernel.keys * self.kernel.wide)  # type: ignore[unsupported-operation]

    def _copy(self, source: Value, target: Value, count: int) -> None:
        for c, lanes in vectors(self.code, count):
            self.code.store(self.code.load(source + c, lanes), target + c, lanes)

    def _take(self, x: Value, tile: Operand) -> None:
        """Turn a tile of queries on its side, times the scale; the last query again and again at the end."""
        code, kernel, depth = self.code, self.kernel, self.work.depth
        first = code.integer(tile) * kernel.wide
        for i in code.each(0, kernel.wide, name="query"):
            number = code.smaller(first + i, kernel.queries - 1)
            source = self._pixel(x, self.work.x, self.work.queries.pixels, number)
            for c, lanes in vectors(code, depth):
                v = code.load(source + c, lanes) * self.work.scale
                code.store(v, self.rows + i * kernel.padded + c)
        self._turn(self.rows, kernel.padded, kernel.wide, self.turned, kernel.wide, depth)

    def _turn(self, source: Value, pitch: int, high: int, target: Value, wide: int, count: int) -> None:
        """Write rows as columns: `count` numbers of each of `high` rows, in squares of vectors."""
        code, lanes = self.code, self.code.lanes
        for i in code.each(0, high, lanes):
            for c in code.each(0, count, lanes):
                square = [code.load(source + (i * pitch + c) + r * pitch) for r in range(lanes)]
                for r, v in enumerate(transpose(code, square)):
                    code.store(v, target + (c * wide + i) + r * wide)

    def _weigh(self, bias: Value | None) -> list[Value]:
        """Write e ** (score - the largest) of each key; return the sums over all keys."""
        code, kernel, lanes = self.code, self.kernel, self.code.lanes
        code.note(
            f"{kernel.keys} keys x {kernel.across} vectors of queries: sums over {self.work.depth} channels"
        )
        largest = [code.vec(-inf)] * kernel.across
        for start, size, count in split(kernel.keys, kernel.high):

            def some(i: Operand, top: list[Value], start: int = start, size: int = size) -> list[Value]:
                return self._scores(i * size + start, size, bias, top)

            largest = code.carry(0, count, 1, largest, some, "keys")
        if self.work.safe:  # e ** (-inf - 0) is 0, for each key
            largest = [code.select(code.compare("oeq", top, -inf), 0.0, top) for top in largest]

        def grown(m: Operand, sums: list[Value], count: int = 4) -> list[Value]:
            found = list(sums)
            for r in range(count):
                for v, top in enumerate(largest):
                    at = self.scores + m * kernel.wide + (r * kernel.wide + v * lanes)
                    power = exp(code, code.load(at) - top)
                    code.store(power, at)
                    place = r % 4 * kernel.across + v
                    found[place] = found[place] + power
            return found

        sums, whole = [code.vec(0.0)] * (4 * kernel.across), kernel.keys // 4 * 4
        sums = code.carry(0, whole, 4, sums, grown, "key")
        sums = grown(whole, sums, kernel.keys - whole)
        a, b, c, d = (sums[i * kernel.across : (i + 1) * kernel.across] for i in range(4))
        return [(p + q) + (r + s) for p, q, r, s in zip(a, b, c, d, strict=True)]

    def _scores(self, key: Operand, size: int, bias: Value | None, top: list[Value]) -> list[Value]:
        """Write the scores of some keys, and return the largest so far."""
        code, kernel, lanes, depth = self.code, self.kernel, self.code.lanes, self.work.depth
        rows = self.keys + key * depth
        sums = self._products(
            rows, depth, 1, self.turned, depth, size, [code.vec(0.0)] * (size * kernel.across)
        )
        found = list(top)
        for r in range(size):
            for v in range(kernel.across):
                place, score = (r * kernel.wide + v * lanes), sums[r * kernel.across + v]
                if bias is not None:
                    score = score + code.load(bias + key * kernel.wide + place)
                code.store(score, self.scores + key * kernel.wide + place)
                found[v] = code.select(code.compare("ogt", score, found[v]), score, found[v])
        return found

    def _products(
        self, numbers: Value, apart: int, step: int, columns: Value, terms: int, size: int, sums: list[Value]
    ) -> list[Value]:
        """Return `sums[r] += numbers[r * apart + t * step] * columns[t]`, over so many terms t."""
        code, kernel = self.code, self.kernel
        each = next(n for n in (4, 3, 2, 1) if terms % n == 0)

        def body(t: Operand, sums: list[Value]) -> list[Value]:
            for u in range(each):
                at, found = columns + t * kernel.wide + u * kernel.wide, []
                row = [code.load(at + v * code.lanes) for v in range(kernel.across)]
                for r in range(size):
                    one = code.broadcast(numbers + t * step + (r * apart + u * step))
                    found += [code.fma(one, w, sums[r * kernel.across + v]) for v, w in enumerate(row)]
                sums = found
            return sums

        return code.carry(0, terms, each, sums, body, "t")

    def _mix(self, totals: list[Value]) -> None:
        """Write the means of the values, weighed by what the scores have become."""
        code, kernel, lanes, width = self.code, self.kernel, self.code.lanes, self.work.width
        code.note(f"{width} channels x {kernel.across} vectors of queries: sums over {kernel.keys} keys")
        shares = [1.0 / total for total in totals]
        if self.work.safe:
            empty = [code.compare("oeq", total, 0.0) for total in totals]
            shares = [code.select(none, 0.0, share) for none, share in zip(empty, shares, strict=True)]
        for start, size, count in split(width, kernel.high):
            for i in code.each(0, count, name="c"):
                c = i * size + start
                sums = self._over_keys(self.values + c, size)
                for r in range(size):
                    for v, share in enumerate(shares):
                        place = self.turned + c * kernel.wide + (r * kernel.wide + v * lanes)
                        code.store(sums[r * kernel.across + v] * share, place)

    def _over_keys(self, values: Value, size: int) -> list[Value]:
        code, kernel, width = self.code, self.kernel, self.work.width
        zeros = [code.vec(0.0)] * (size * kernel.across)

        def stretch(key: Operand, count: int, sums: list[Value]) -> list[Value]:
            rows, columns = values + key * width, self.scores + key * kernel.wide
            return self._products(rows, 1, width, columns, count, size, sums)

        def longer(i: Operand, sums: list[Value], run: Run) -> list[Value]:
            part = stretch(i * run[1] + run[0], run[1], zeros)
            return [total + one for total, one in zip(sums, part, strict=True)]

        sums = zeros
        for run in runs(kernel.keys, _STRETCH if kernel.keys > 2 * _STRETCH else kernel.keys):
            sums = code.carry(0, run[2], 1, sums, lambda i, sums, run=run: longer(i, sums, run), "keys")
        return sums

    def _give(self, y: Value, tile: Operand) -> None:
        """Turn the results back and write those of queries that there are."""
        code, kernel, width = self.code, self.kernel, self.work.width
        self._turn(
            self.turned,
            kernel.wide,
            ceil_div(width, code.lanes) * code.lanes,
            self.rows,
            kernel.padded,
            kernel.wide,
        )
        first = code.integer(tile) * kernel.wide
        for i in code.each(0, code.smaller(kernel.queries - first, kernel.wide), name="query"):
            target = self._pixel(y, self.work.y, self.work.queries.pixels, first + i)
            self._copy(self.rows + i * kernel.padded, target, width)


def candidates(problem: Attention, target: Target) -> list[Kernel]:
    """Return the ways to do it, if the layouts allow."""
    if any(view.channel_pitch != 1 for view in problem.views):
        return []
    few = len(problem.queries.pixels) <= target.lanes
    return [ByQueries(problem, target, 1 if few else 2)]
