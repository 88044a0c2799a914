"""Tensors -> lines and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.lines.geometry import Planes, Triple, triples
from regroup.kernels.templates.base import LINE, ceil_div, whole_lines
from regroup.kernels.templates.parts.walk import vectors


@dataclass(frozen=True)
class Band:
    """A range of positions of one axis: all that a piece of work holds of it.

    Attributes:
        axis: which.
        first: position that is the first here, known at run time.
    """

    axis: int
    first: Operand


@dataclass(frozen=True)
class Lines:
    """Lines in private memory for some channels of one image.

    Attributes:
        planes: the tensor.
        lengths: positions of each axis: those of the planes, or of a band.
        pitch: floats from one position to the next, of each axis.
        phases: those that are kept, in order.
        size: floats of one line.
    """

    planes: Planes
    lengths: Triple
    pitch: Triple
    phases: tuple[Triple, ...]
    size: int

    @classmethod
    def of(
        cls, planes: Planes, lengths: Triple, pitch: Triple, phases: tuple[Triple, ...], slack: int
    ) -> Lines:
        """Return lines with at least `slack` floats behind each."""
        floats = sum((n - 1) * p for n, p in zip(lengths, pitch, strict=True)) + 1 + slack
        return cls(planes, lengths, pitch, phases, whole_lines(floats) + LINE)

    @property
    def per_channel(self) -> int:
        """Floats of a channel's lines."""
        return self.size * len(self.phases)

    def start(self, phase: Triple) -> int:
        """Return where the line of a phase begins among those of its channel."""
        return self.phases.index(phase) * self.size

    def fill(self, code: Code, tensor: Value, lines: Value, channels: int, band: Band) -> None:
        """Write the copying of `channels` channels from a tensor; zeros are there already but in bands."""
        _Transfer(code, self, tensor, lines, band).write(channels, into=True)

    def empty(self, code: Code, tensor: Value, lines: Value, channels: int, band: Band) -> None:
        """Write the copying of `channels` channels to a tensor."""
        _Transfer(code, self, tensor, lines, band).write(channels, into=False)


def zero(code: Code, start: Value, floats: int) -> None:
    """Write zeros, a multiple of a cache line."""
    assert floats % LINE == 0
    for i in code.each(0, floats, code.lanes):
        code.store(code.vec(0.0), start + i)


class _Transfer:
    def __init__(self, code: Code, lines: Lines, tensor: Value, start: Value, band: Band) -> None:
        self.code, self.lines, self.tensor, self.start, self.band = code, lines, tensor, start, band

    def write(self, channels: int, into: bool) -> None:
        planes, code = self.lines.planes, self.code
        by_channels = planes.channel == 1 and planes.axes[2].stride != 1
        pairs = not into and planes.axes[2].step == 2 and planes.axes[2].stride == 1
        for phase in self.lines.phases:
            line = self.start + self.lines.start(phase)
            if by_channels:

                def pixels(row: Operand, at: Operand, line: Value = line, phase: Triple = phase) -> None:
                    self._pixels(self.tensor + row, line + at, channels, phase[2], into)

                self._rows(phase, pixels, line, channels, into)
                continue
            if pairs and phase[2]:
                continue
            copy = self._take_row if into else self._give_pairs if pairs else self._give_row
            for c in code.each(0, channels, name="c"):
                tensor, mine = self.tensor + c * planes.channel, line + c * self.lines.per_channel

                def one(
                    row: Operand,
                    at: Operand,
                    tensor: Value = tensor,
                    mine: Value = mine,
                    phase: Triple = phase,
                    copy: Callable[[Value, Value, Triple], None] = copy,
                ) -> None:
                    copy(tensor + row, mine + at, phase)

                self._rows(phase, one, mine, 1, into)

    def _rows(
        self,
        phase: Triple,
        copy: Callable[[Operand, Operand], None],
        line: Value,
        channels: int,
        into: bool,
    ) -> None:
        """Write loops over the rows of a phase: offset in the tensor, offset in the line."""
        code, lines = self.code, self.lines
        axes = lines.planes.axes

        def along(i: int, row: Operand, at: Operand) -> None:
            if i == 2:
                copy(row, at)
                return
            axis, inside, pitch = axes[i], axes[i].inside(phase[i]), lines.pitch[i]
            banded = i == self.band.axis and lines.lengths[i] < axis.length
            local = range(lines.lengths[i]) if banded else inside
            for p in code.each(local.start, local.stop):
                q = p + self.band.first if banded else p
                source = row + (q * axis.step + (phase[i] - axis.lead)) * axis.stride

                def go(source: Operand = source, p: Operand = p) -> None:
                    along(i + 1, source, at + p * pitch)

                if not banded:
                    go()
                    continue
                there = code.compare("ult", q - inside.start, len(inside))
                if into:
                    code.either(there, go, lambda p=p: self._blank(line + at + p * pitch, i, channels))
                else:
                    for _ in code.when(there):
                        go()

        along(0, 0, 0)

    def _blank(self, at: Value, axis: int, channels: int) -> None:
        """Write zeros over all positions of the inner axes."""
        lines, code = self.lines, self.code
        inner = lines.lengths[axis + 1] if axis + 1 < 2 else 1
        for c in code.each(0, channels, name="c"):
            for p in code.each(0, inner):
                row = at + c * lines.per_channel + (p * lines.pitch[1] if inner > 1 else 0)
                for x, count in vectors(code, lines.lengths[2]):
                    code.store(code.vec(0.0), row + x, count)

    # -- rows whose pixels lie side by side in the tensor ------------------------------------------

    def _take_row(self, row: Value, line: Value, phase: Triple) -> None:
        code, axis = self.code, self.lines.planes.axes[2]
        inside = axis.inside(phase[2])
        first = inside.start * axis.step + phase[2] - axis.lead
        source, to = row + first * axis.stride, line + inside.start
        if axis.step * axis.stride == 1:
            for x, count in vectors(code, len(inside)):
                code.store(code.load(source + x, count), to + x, count)
        elif axis.step * axis.stride == 2:
            even = [2 * lane for lane in range(code.lanes)]
            for x, count in vectors(code, len(inside)):
                near, far = min(code.lanes, 2 * count - 1), max(0, 2 * count - 1 - code.lanes)
                a = code.load(source + 2 * x, near)
                b = code.load(source + (2 * x + code.lanes), far) if far else a
                code.store(code.permute(a, even, b), to + x, count)
        else:
            for x in code.each(0, len(inside), name="column"):
                code.store_scalar(code.load_scalar(source + x * (axis.step * axis.stride)), to + x)

    def _give_pairs(self, row: Value, line: Value, phase: Triple) -> None:
        """Write both phases of a row, in turns."""
        code, axis, lanes = self.code, self.lines.planes.axes[2], self.code.lanes
        other = line + (self.lines.start((*phase[:2], 1)) - self.lines.start((*phase[:2], 0)))
        evens, odds = (other, line + 1) if axis.lead else (line, other)
        halves = [[i // 2 + i % 2 * lanes + half for i in range(lanes)] for half in (0, lanes // 2)]
        whole = axis.size // (2 * lanes)
        for x in code.each(0, whole * lanes, lanes, name="column"):
            a, b = code.load(evens + x), code.load(odds + x)
            for i, picks in enumerate(halves):
                code.store(code.permute(a, picks, b), row + (2 * x + i * lanes))
        rest = axis.size - 2 * whole * lanes
        if rest:
            a, b = code.load(evens + whole * lanes), code.load(odds + whole * lanes)
            for i, picks in enumerate(halves):
                if rest > i * lanes:
                    to = row + (2 * whole + i) * lanes
                    code.store(code.permute(a, picks, b), to, min(lanes, rest - i * lanes))

    def _give_row(self, row: Value, line: Value, phase: Triple) -> None:
        code, axis = self.code, self.lines.planes.axes[2]
        inside = axis.inside(phase[2])
        to = row + (inside.start * axis.step + phase[2] - axis.lead) * axis.stride
        source, apart = line + inside.start, axis.step * axis.stride
        if apart == 1:
            for x, count in vectors(code, len(inside)):
                code.store(code.load(source + x, count), to + x, count)
        else:
            for x in code.each(0, len(inside), name="column"):
                code.store_scalar(code.load_scalar(source + x), to + x * apart)

    # -- rows whose channels lie side by side ---------------------------------------------------------

    def _pixels(self, row: Value, line: Value, channels: int, phase: int, into: bool) -> None:
        code, axis = self.code, self.lines.planes.axes[2]
        inside, apart = axis.inside(phase), axis.step * axis.stride
        near, there = row + (inside.start * axis.step + phase - axis.lead) * axis.stride, line + inside.start
        per = self.lines.per_channel
        for x, pixels in vectors(code, len(inside)):
            for c, count in vectors(code, channels):
                tensor, lines = near + x * apart + c, there + x + c * per
                if into:
                    rows = [code.load(tensor + i * apart, count) for i in range(pixels)]
                    for i, row_of in enumerate(transposed(code, rows)[:count]):
                        code.store(row_of, lines + i * per, pixels)
                else:
                    rows = [code.load(lines + i * per, pixels) for i in range(count)]
                    for i, row_of in enumerate(transposed(code, rows)[:pixels]):
                        code.store(row_of, tensor + i * apart, count)


def transposed(code: Code, rows: list[Value]) -> list[Value]:
    """Return the columns of a square of vectors; rows that are not given are undefined."""
    lanes = code.lanes
    rows = rows + [rows[0]] * (lanes - len(rows))
    half = lanes // 2
    while half:
        mixed: list[Value | None] = [None] * lanes
        for i in range(lanes):
            if i & half:
                continue
            a, b = rows[i], rows[i + half]
            low = [j if not j & half else lanes + j - half for j in range(lanes)]
            high = [j + half if not j & half else lanes + j for j in range(lanes)]
            mixed[i], mixed[i + half] = code.permute(a, low, b), code.permute(a, high, b)
        rows = [v for v in mixed if v is not None]
        half //= 2
    return rows


def used_phases(phases: set[Triple]) -> tuple[Triple, ...]:
    """Return phases in order."""
    return tuple(sorted(phases))


def all_phases(planes: Planes) -> tuple[Triple, ...]:
    """Return every phase of a tensor."""
    return tuple(triples(planes.steps))


def bands(length: int, largest: int) -> tuple[int, int]:
    """Return how many bands of equal size cover `length`, and that size."""
    count = ceil_div(length, largest)
    return count, ceil_div(length, count)
