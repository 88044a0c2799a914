"""Convolutions and the gradients of their inputs: sums over taps of lines, a tile of positions at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import prod

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.lines.geometry import Tap, Triple
from regroup.kernels.lines.problem import Forward, InputGradient
from regroup.kernels.machine.target import Target
from regroup.kernels.templates.base import Kernel, Run, ceil_div, choose, runs, split
from regroup.kernels.templates.lines.staging import Band, Lines, bands, zero
from regroup.kernels.templates.lines.way import Way
from regroup.kernels.templates.parts.walk import vectors

_CACHED = 64 << 10
"""Bytes of lines that a piece of work holds at most, where it can be cut."""

_WRITTEN_OUT = 64
"""Taps whose products are written out; more are taken in a loop over the kernel's rows."""


@dataclass(frozen=True)
class Tile:
    """Positions and channels whose sums are in registers.

    Attributes:
        rows: positions lie in as many rows below each other; 0: they are vectors side by side.
        vectors: of positions.
        channels: outputs.
    """

    rows: int
    vectors: int
    channels: int

    @property
    def positions(self) -> int:
        """Vectors for each channel."""
        return max(self.rows, self.vectors)

    def __str__(self) -> str:
        return f"{self.rows or 1}x{1 if self.rows else self.vectors}x{self.channels}"


class LineSums(Kernel):
    """Sums over lines.

    Args:
        problem: a convolution or the gradient of its input.
        target: the CPU.
        tile: what is kept in registers.
    """

    template = "lines"

    def __init__(self, problem: Forward | InputGradient, target: Target, tile: Tile) -> None:
        super().__init__(problem, target)
        self.way, self.cut, self.tiled = Way.of(problem), problem, tile
        self.tile = str(tile)
        self._place(target)
        self.items = problem.images * len(self.blocks_of) * self.bands
        self.cycles = self._estimate(target)

    def _place(self, target: Target) -> None:
        """Choose how many groups and rows a piece of work has, and lay out its lines."""
        way, problem, lanes = self.way, self.cut, target.lanes
        by_channels = 1 in (way.read.channel, way.written.channel)
        together = ceil_div(lanes, way.width_read) if by_channels else 1
        self.cut_groups = runs(problem.groups, min(together, problem.groups))
        self.blocks_of = [size for _, size, count in self.cut_groups for _ in range(count)]
        self.most = max(self.blocks_of)
        axis = 0 if way.written.lengths[0] > 1 else 1
        length, row = way.written.lengths[axis], prod(way.read.lengths[axis + 1 :])
        each = (
            self.most
            * (way.width_read * len(way.phases_read) + way.width_written * len(way.phases))
            * row
            * 4
        )
        self.bands, self.band = bands(length, max(_CACHED // each, 8, 2 * (way.read.lengths[axis] - length)))
        self.axis = axis
        spare = lanes * (self.tiled.vectors + 1)
        grown = [n - m for n, m in zip(way.read.lengths, way.written.lengths, strict=True)]
        there = _with(way.written.lengths, axis, min(self.band, length))
        here = _with(way.read.lengths, axis, there[axis] + grown[axis])
        pitch = (here[1] * here[2], here[2], 1)
        self.read = Lines.of(way.read, here, pitch, way.phases_read, spare)
        self.written = Lines.of(way.written, there, pitch, way.phases, spare)
        self.read_floats = self.most * way.width_read * self.read.per_channel
        self.scratch = self.read_floats + self.most * way.width_written * self.written.per_channel

    def _estimate(self, target: Target) -> float:
        """Estimate the cycles: multiply-adds and loads of each tile, copies of all lines."""
        way, tile, lanes = self.way, self.tiled, target.lanes
        lengths = self.written.lengths
        total = 0.0
        for taps in way.taps.values():
            loads, products = 0, 0
            for row in _rows_of(taps) if len(taps) > _WRITTEN_OUT else [taps]:
                loads += len(
                    {(tap.phase, p + self._shift(tap)) for tap in row for p in self._positions(lanes)}
                )
                products += len(row) * tile.positions * tile.channels
            weights = len(taps) * tile.channels
            cycles = (
                way.width_read * max(products / 2, (1.6 * loads + weights) / 2)
                + 2 * tile.positions * tile.channels
            )
            if tile.rows:
                tiles = ceil_div(lengths[1], tile.rows) * ceil_div(lengths[2], lanes)
            else:
                tiles = ceil_div((lengths[1] - 1) * self.read.pitch[1] + lengths[2], lanes * tile.vectors)
            total += lengths[0] * tiles * ceil_div(way.width_written, tile.channels) * cycles
        copied = way.width_read * self.read.per_channel + way.width_written * self.written.per_channel
        return self.items * (total * self.most + copied * self.most / lanes * 2)

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, scratch = code.arguments
        zero(code, scratch, self.read_floats)
        blocks = len(self.blocks_of)

        for item in code.each(low, high, name="item"):
            band, rest = item % self.bands, item // self.bands
            block, image = rest % blocks, rest // blocks

            def write(start: Operand, run: Run, image: Operand = image, band: Operand = band) -> None:
                self._block(code, views, image, start, run[1], band)

            choose(code, block, self.cut_groups, write)
        return [code]

    def _block(
        self, code: Code, views: list[Value], image: Operand, first: Operand, groups: int, band: Operand
    ) -> None:
        """Write the work on some groups of an image."""
        way, scratch = self.way, code.arguments[3]
        read, written = (
            tensor + (image * planes.image + first * (width * planes.channel))
            for tensor, planes, width in (
                (views[0], way.read, way.width_read),
                (views[-1], way.written, way.width_written),
            )
        )
        at = Band(self.axis, band * self.band)
        self.read.fill(code, read, scratch, groups * way.width_read, at)
        results = scratch + self.read_floats
        weights = views[1] + first * (way.width_read * way.width_written * self.cut.geometry.taps)
        for g in code.each(0, groups):
            lines = scratch + g * (way.width_read * self.read.per_channel)
            to = results + g * (way.width_written * self.written.per_channel)
            mine = weights + g * (way.width_read * way.width_written * self.cut.geometry.taps)
            bias = views[2] + (first * way.width_written + g * way.width_written) if way.bias else None
            self._group(code, lines, to, mine, bias)
        self.written.empty(code, written, results, groups * way.width_written, at)

    def _group(self, code: Code, lines: Value, to: Value, weights: Value, bias: Value | None) -> None:
        way = self.way
        for phase, taps in way.taps.items():
            for start, size, count in split(way.width_written, self.tiled.channels):
                for i in code.each(0, count):
                    channel = i * size + start
                    out = to + (channel * self.written.per_channel + self.written.start(phase))
                    sums = _Sums(code, self, taps, size)
                    sums.weights = weights + channel * way.written_step
                    sums.bias = None if bias is None else bias + channel
                    sums.write(lines, out)

    def _positions(self, lanes: int) -> list[int]:
        tile = self.tiled
        if tile.rows:
            return [i * self.read.pitch[1] for i in range(tile.rows)]
        return [i * lanes for i in range(tile.vectors)]

    def _shift(self, tap: Tap) -> int:
        return sum(s * p for s, p in zip(tap.shift, self.read.pitch, strict=True))


class _Sums:
    """Writes the sums of one phase for some channels of a group."""

    weights: Value
    bias: Value | None

    def __init__(self, code: Code, kernel: LineSums, taps: list[Tap], channels: int) -> None:
        self.code, self.kernel, self.taps, self.channels = code, kernel, taps, channels
        self.read, self.way, self.tile = kernel.read, kernel.way, kernel.tiled

    def write(self, lines: Value, out: Value) -> None:
        """Write loops over all positions."""
        code, tile = self.code, self.tile
        depth, height, width = self.kernel.written.lengths
        pitch = self.read.pitch
        kept = self._kept()
        for z in code.each(0, depth):
            here, to = lines + z * pitch[0], out + z * pitch[0]
            if tile.rows:
                for start, rows, count in split(height, tile.rows):
                    places = [i * pitch[1] for i in range(rows)]
                    for y in code.each(0, count, name="row"):
                        row = (y * rows + start) * pitch[1]
                        for x, lanes in vectors(code, width):
                            self._tile(here + row + x, to + row + x, places, lanes, kept)
            else:
                total = ceil_div((height - 1) * pitch[1] + width, code.lanes)
                for start, size, count in runs(total, tile.vectors):
                    places = [i * code.lanes for i in range(size)]
                    for f in code.each(0, count):
                        at = (f * size + start) * code.lanes
                        self._tile(here + at, to + at, places, code.lanes, kept)

    def _kept(self) -> dict[tuple[int, int], Value] | None:
        """Load the weights once, where there are few: by tap and channel."""
        few = self.way.width_read * len(self.taps) * self.channels
        if (
            self.way.width_read > 1
            or few + 2 + self.tile.positions * self.channels > self.code.target.registers
        ):
            return None
        return self._load(self.weights, self.taps)

    def _load(self, weights: Value, taps: list[Tap]) -> dict[tuple[int, int], Value]:
        code, step = self.code, self.way.written_step
        return {
            (tap.number, j): code.broadcast(weights + (j * step + tap.number))
            for tap in taps
            for j in range(self.channels)
        }

    def _tile(
        self,
        at: Value,
        to: Value,
        places: list[int],
        lanes: int,
        kept: dict[tuple[int, int], Value] | None,
    ) -> None:
        code = self.code
        first = [
            code.vec(0.0) if self.bias is None else code.broadcast(self.bias + j)
            for j in range(self.channels)
        ]
        sums = [value for value in first for _ in places]

        def channel(i: Operand, sums: list[Value]) -> list[Value]:
            line, weights = at + i * self.read.per_channel, self.weights + i * self.way.read_step
            for part in _parts(self.taps):
                sums = self._products(line, weights, part, places, sums, kept)
            return sums

        if self.taps:
            sums = code.carry(0, self.way.width_read, 1, sums, channel)
        for j in range(self.channels):
            for i, place in enumerate(places):
                out = to + (j * self.kernel.written.per_channel + place)
                code.store(sums[j * len(places) + i], out, lanes)

    def _products(
        self,
        line: Value,
        weights: Value,
        taps: list[Tap],
        places: list[int],
        sums: list[Value],
        kept: dict[tuple[int, int], Value] | None,
    ) -> list[Value]:
        """Write the products of some taps: each vector of the line is loaded once."""
        code, sums = self.code, list(sums)
        by_place: dict[int, list[tuple[Tap, int]]] = {}
        for tap in taps:
            for i, place in enumerate(places):
                start = self.read.start(tap.phase) + self.kernel._shift(tap) + place
                by_place.setdefault(start, []).append((tap, i))
        held = kept or {}
        for start in sorted(by_place):
            v = code.load(line + start)
            for tap, i in by_place[start]:
                for j in range(self.channels):
                    if (tap.number, j) not in held:
                        held |= self._load(weights, [tap])
                    k = j * len(places) + i
                    sums[k] = code.fma(v, held[tap.number, j], sums[k])
        return sums


def _parts(taps: list[Tap]) -> Iterator[list[Tap]]:
    """Yield taps together whose products share vectors: all, or rows of the kernel."""
    if len(taps) <= _WRITTEN_OUT:
        yield taps
    else:
        yield from _rows_of(taps)


def _rows_of(taps: list[Tap]) -> list[list[Tap]]:
    return [list(row) for _, row in groupby(taps, lambda tap: (tap.phase[:2], tap.shift[:2]))]


def _with(lengths: Triple, axis: int, length: int) -> Triple:
    changed = list(lengths)
    changed[axis] = length
    return (changed[0], changed[1], changed[2])


def candidates(problem: Forward | InputGradient, target: Target) -> list[LineSums]:
    """Return tiles that fit the registers."""
    width = problem.width_out if isinstance(problem, Forward) else problem.width_in
    found = []
    for channels in (1, 2, 3, 4, 6, 8):
        if channels > width:
            break
        most = (target.registers - channels - 2) // channels
        sizes = sorted({min(most, n) for n in (1, 2, 3, 4, 6, 8, 12) if n <= most})
        found += [Tile(0, n, channels) for n in sizes] + [Tile(n, 0, channels) for n in sizes if n > 1]
    return [LineSums(problem, target, tile) for tile in found]
