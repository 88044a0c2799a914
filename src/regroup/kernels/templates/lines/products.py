"""Gradients of weights: products of a line of inputs and one of outputs' gradients, summed over positions.

Sums are vectors, one for each weight, and stay so from image to image: their lanes are added up at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from math import prod

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.lines.geometry import Tap, Triple
from regroup.kernels.lines.problem import SumParts, WeightGradient
from regroup.kernels.machine.target import Target
from regroup.kernels.templates.base import Kernel, Run, ceil_div, choose, runs, split, whole_lines
from regroup.kernels.templates.lines.staging import Band, Lines, bands, used_phases, zero
from regroup.kernels.templates.parts.walk import vectors

_CACHED = 64 << 10
"""Bytes of lines that a piece of work holds at once, where they can be cut."""


@dataclass(frozen=True)
class Tile:
    """What is in registers.

    Attributes:
        rows: vectors of outputs' gradients below each other.
        flat: positions go on from row to row, instead.
        inputs: channels.
        outputs: channels.
        taps: at most.
    """

    rows: int
    flat: bool
    inputs: int
    outputs: int
    taps: int

    @property
    def registers(self) -> int:
        """Sums, gradients, an input."""
        return self.inputs * self.outputs * self.taps + self.rows * self.outputs + 1

    def __str__(self) -> str:
        return f"{self.rows}{'f' if self.flat else ''}x{self.inputs}x{self.outputs}x{self.taps}"


class LineProducts(Kernel):
    """Sums of products of lines.

    Args:
        problem: the gradient of weights.
        target: the CPU.
        tile: what is kept in registers.
    """

    template = "lines"

    def __init__(self, problem: WeightGradient, target: Target, tile: Tile) -> None:
        super().__init__(problem, target)
        self.cut, self.tiled, self.tile = problem, tile, str(tile)
        self.taps = [tap for taps in problem.geometry.taps_of_outputs().values() for tap in taps]
        self.passes = _passes(self.taps, tile.taps)
        self._place(target)
        self.items = problem.parts * len(self.blocks_of)
        self.cycles = self._estimate(target)

    def _place(self, target: Target) -> None:
        problem, lanes, shape = self.cut, target.lanes, self.cut.geometry
        x, y = problem.input, problem.output
        read = x.along(shape.input_axis)
        upstream = y.along(shape.output_axis)
        by_channels = 1 in (x.channel, y.channel)
        together = ceil_div(lanes, min(problem.width_in, problem.width_out)) if by_channels else 1
        self.cut_groups = runs(problem.groups, min(together, problem.groups))
        self.blocks_of = [size for _, size, count in self.cut_groups for _ in range(count)]
        self.most = max(self.blocks_of)
        self.axis = axis = 0 if upstream.lengths[0] > 1 else 1
        length, row = upstream.lengths[axis], prod(read.lengths[axis + 1 :])
        phases = used_phases({tap.phase for tap in self.taps})
        each = self.most * (problem.width_in * len(phases) + problem.width_out) * row * 4
        extra = read.lengths[axis] - length
        self.bands, self.band = bands(length, max(_CACHED // each, 8, 2 * extra))
        band = min(self.band, length)
        there, here = list(upstream.lengths), list(read.lengths)
        there[axis], here[axis] = band, band + extra
        # vectors may go over the end of a row, or of a sheet where rows are one: only zeros may follow
        width = here[2] if self.tiled.flat else ceil_div(there[2], lanes) * lanes
        sheet = ceil_div((there[1] - 1) * width + there[2], lanes) * lanes
        pitch, steps = (here[1] * here[2], here[2], 1), (sheet, width, 1)
        spare = 2 * lanes
        self.read = Lines.of(
            read, (here[0], here[1], here[2]), pitch, phases, spare + self.tiled.rows * here[2]
        )
        self.upstream = Lines.of(upstream, (there[0], there[1], there[2]), steps, ((0, 0, 0),), spare)
        weights = problem.width_in * problem.width_out * shape.taps
        self.read_floats = self.most * problem.width_in * self.read.per_channel
        self.lines = self.read_floats + self.most * problem.width_out * self.upstream.per_channel
        self.lines = whole_lines(self.lines + 2 * lanes)
        self.sums = self.most * weights * lanes
        self.scratch = self.lines + whole_lines(self.sums)

    def _estimate(self, target: Target) -> float:
        tile, problem, lanes = self.tiled, self.cut, target.lanes
        depth, height, width = self.upstream.lengths
        if tile.flat:
            turns = depth * ceil_div((height - 1) * self.read.pitch[1] + width, lanes)
        else:
            turns = depth * ceil_div(height, tile.rows) * ceil_div(width, lanes)
        cycles = 0.0
        for taps in self.passes:
            loads = len(
                {s + i * self.read.pitch[1] for s in map(self._shift, taps) for i in range(tile.rows)}
            )
            products = tile.rows * len(taps) * tile.inputs * tile.outputs
            cost = max(products / 2, (1.6 * loads * tile.inputs + tile.rows * tile.outputs) / 2, 4.0)
            cycles += turns * cost + 2 * len(taps) * tile.inputs * tile.outputs
        cycles *= ceil_div(problem.width_in, tile.inputs) * ceil_div(problem.width_out, tile.outputs)
        copied = problem.width_in * self.read.per_channel + problem.width_out * self.upstream.per_channel
        once = cycles + copied / lanes * 2
        return problem.images * self.bands * problem.groups * once + problem.parts * problem.weights * 12

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        blocks = len(self.blocks_of)
        for item in code.each(low, high, name="item"):
            part, block = item // blocks, item % blocks

            def write(start: Operand, run: Run, part: Operand = part) -> None:
                self._block(code, views, start, run[1], part)

            choose(code, block, self.cut_groups, write)
        return [code]

    def _block(self, code: Code, views: list[Value], first: Operand, groups: int, part: Operand) -> None:
        problem, scratch = self.cut, code.arguments[3]
        each = problem.width_in * problem.width_out * problem.geometry.taps
        sums = scratch + self.lines
        zero(code, scratch, self.scratch)
        x = views[0] + first * (problem.width_in * problem.input.channel)
        y = views[1] + first * (problem.width_out * problem.output.channel)
        share = code.integer(part) * problem.images
        begin, end = share // problem.parts, (share + problem.images) // problem.parts
        upstream = scratch + self.read_floats
        for image in code.each(begin, end, name="image"):
            for band in code.each(0, self.bands):
                at = Band(self.axis, band * self.band)
                taken, wide = x + image * problem.input.image, groups * problem.width_in
                self.read.fill(code, taken, scratch, wide, at)
                given, wide = y + image * problem.output.image, groups * problem.width_out
                self.upstream.fill(code, given, upstream, wide, at)
                for g in code.each(0, groups):
                    self._group(
                        code,
                        scratch + g * (problem.width_in * self.read.per_channel),
                        upstream + g * (problem.width_out * self.upstream.per_channel),
                        sums + g * (each * code.lanes),
                    )
        to = views[2] + code.integer(part) * problem.weights + first * each
        for i in code.each(0, groups * each):
            code.store_scalar(_total(code, code.load(sums + i * code.lanes)), to + i)

    def _group(self, code: Code, lines: Value, upstream: Value, sums: Value) -> None:
        problem, tile, count = self.cut, self.tiled, self.cut.geometry.taps
        for o, outputs, some in split(problem.width_out, tile.outputs):
            for j in code.each(0, some):
                out = j * outputs + o
                for c, inputs, many in split(problem.width_in, tile.inputs):
                    for i in code.each(0, many):
                        channel = i * inputs + c
                        here = lines + channel * self.read.per_channel
                        there = upstream + out * self.upstream.per_channel
                        place = sums + (out * (problem.width_in * count) + channel * count) * code.lanes
                        for taps in self.passes:
                            self._pass(code, (here, there, place), taps, inputs, outputs)

    def _pass(
        self, code: Code, places: tuple[Value, Value, Value], taps: list[Tap], inputs: int, outputs: int
    ) -> None:
        """Write the sums for some taps and channels over all positions."""
        here, there, place = places
        count, lanes = self.cut.geometry.taps, code.lanes
        at = [
            place + ((j * self.cut.width_in + i) * count + tap.number) * lanes
            for j in range(outputs)
            for i in range(inputs)
            for tap in taps
        ]
        sums = [code.load(p) for p in at]

        def turn(x: Value, y: Value, rows: int, sums: list[Value]) -> list[Value]:
            return self._products(code, (x, y), taps, (inputs, outputs, rows), sums)

        for p, total in zip(at, self._walk(code, here, there, sums, turn), strict=True):
            code.store(total, p)

    def _walk(
        self,
        code: Code,
        here: Value,
        there: Value,
        sums: list[Value],
        turn: Callable[[Value, Value, int, list[Value]], list[Value]],
    ) -> list[Value]:
        """Write loops over all positions, which hand the sums on."""
        depth, height, width = self.upstream.lengths
        pitch, steps, lanes = self.read.pitch, self.upstream.pitch, code.lanes

        def sheet(z: Operand, sums: list[Value]) -> list[Value]:
            x, y = here + z * pitch[0], there + z * steps[0]
            if self.tiled.flat:
                total = (height - 1) * pitch[1] + width
                return code.carry(0, total, lanes, sums, lambda f, sums: turn(x + f, y + f, 1, sums))
            for start, rows, count in split(height, self.tiled.rows):

                def block(i: Operand, sums: list[Value], start: int = start, rows: int = rows) -> list[Value]:
                    row = i * rows + start
                    a, b = x + row * pitch[1], y + row * steps[1]
                    return code.carry(0, width, lanes, sums, lambda c, sums: turn(a + c, b + c, rows, sums))

                sums = code.carry(0, count, 1, sums, block)
            return sums

        return code.carry(0, depth, 1, sums, sheet)

    def _products(
        self,
        code: Code,
        places: tuple[Value, Value],
        taps: list[Tap],
        sizes: tuple[int, int, int],
        sums: list[Value],
    ) -> list[Value]:
        """Write the products at some vectors of positions: each vector of an input is loaded once."""
        (x, y), (inputs, outputs, rows), sums = places, sizes, list(sums)
        gradients = {
            (j, r): code.load(y + (j * self.upstream.per_channel + r * self.upstream.pitch[1]))
            for j in range(outputs)
            for r in range(rows)
        }
        for i in range(inputs):
            uses: dict[int, list[tuple[int, int]]] = {}
            for n, tap in enumerate(taps):
                for r in range(rows):
                    start = self.read.start(tap.phase) + self._shift(tap) + r * self.read.pitch[1]
                    uses.setdefault(start, []).append((n, r))
            for start in sorted(uses):
                v = code.load(x + (i * self.read.per_channel + start))
                for n, r in uses[start]:
                    for j in range(outputs):
                        k = (j * inputs + i) * len(taps) + n
                        sums[k] = code.fma(v, gradients[j, r], sums[k])
        return sums

    def _shift(self, tap: Tap) -> int:
        return sum(s * p for s, p in zip(tap.shift, self.read.pitch, strict=True))


class AddParts(Kernel):
    """Adds up parts of weights' gradients."""

    template = "parts"

    def __init__(self, problem: SumParts, target: Target) -> None:
        super().__init__(problem, target)
        self.cut, self.tile = problem, str(problem.parts)
        self.each = 64 * target.lanes
        self.items = ceil_div(problem.count, self.each)
        self.cycles = problem.parts * problem.count / target.lanes

    def _emit(self, name: str) -> list[Code]:
        code, views = self._open(name)
        _, low, high, _ = code.arguments
        parts, count = self.cut.parts, self.cut.count

        def write(start: Operand, run: Run) -> None:
            for i, lanes in vectors(code, run[1]):
                at = views[0] + start + i
                total = code.load(at, lanes)
                for part in range(1, parts):
                    total = total + code.load(at + part * count, lanes)
                code.store(total, views[1] + start + i, lanes)

        for item in code.each(low, high, name="item"):
            choose(code, item, runs(count, self.each), write)
        return [code]


def _total(code: Code, vector: Value) -> Value:
    """Return the sum of a vector's lanes."""
    half = code.lanes // 2
    while half:
        vector = vector + code.permute(vector, [lane ^ half for lane in range(code.lanes)])
        half //= 2
    return code.extract(vector, 0)


def _passes(taps: list[Tap], most: int) -> list[list[Tap]]:
    """Cut the taps into near-equal pieces of at most `most`: whole rows of the kernel, if one fits."""

    def row(tap: Tap) -> tuple[Triple, Triple]:
        return ((*tap.phase[:2], 0), (*tap.shift[:2], 0))

    lines = [list(some) for _, some in groupby(taps, row)]
    if len(lines[0]) > most:
        return [
            line[s + i * n : s + i * n + n]
            for line in lines
            for s, n, c in split(len(line), most)
            for i in range(c)
        ]
    together = most // len(lines[0])
    return [
        [tap for line in lines[s + i * n : s + i * n + n] for tap in line]
        for s, n, c in split(len(lines), together)
        for i in range(c)
    ]


def candidates(problem: WeightGradient, target: Target) -> list[LineProducts]:
    """Return tiles that fit the registers."""
    count = problem.geometry.taps
    columns = problem.geometry.kernel_size[2]
    found = []
    for inputs in (1, 2, 4):
        for outputs in (1, 2, 4):
            for rows in (1, 2, 3, 4, 6, 8):
                if inputs > problem.width_in or outputs > problem.width_out:
                    continue
                room = (target.registers - 1 - rows * outputs) // (inputs * outputs)
                whole = room // columns * columns
                taps = min(count, whole or room)
                if taps >= 1:
                    found.append(Tile(rows, False, inputs, outputs, taps))
                    if rows == 1:
                        found.append(Tile(1, True, inputs, outputs, taps))
    return [LineProducts(problem, target, tile) for tile in found]
