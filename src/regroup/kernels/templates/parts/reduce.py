"""The inner loop of scalar broadcast: the sum over taps and input channels in a register tile."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.problems import Conv
from regroup.kernels.templates.base import ceil_div
from regroup.kernels.templates.parts.fetch import fetch_ahead
from regroup.kernels.templates.parts.stage import Source
from regroup.kernels.templates.parts.tail import Tail

_UNROLLED = 8
"""Up to so many terms are written out one after the other instead of in a loop."""

STRETCH, SHORT_STRETCH = range(48, 129), range(16, 65)
"""Terms that are summed by themselves before they are added to the rest: long sums round less that way.

The short ones are for one pixel, where the weights' way from memory takes longer than the sums.
"""


@dataclass(frozen=True)
class Turn:
    """A tile's share of weights that lie `ahead` floats on: share `number` of `shares`."""

    ahead: int
    number: Operand
    shares: int


class Reduction:
    """Writes `sum += x[pixel, tap, channel] * w[tap, channel, vector]` for a tile of pixels and vectors.

    Weights lie in the order of use: tap, channel, vector.

    Args:
        code: the function being written.
        conv: what to compute.
        source: where the input lies.
        pixels: offset of each pixel of the tile from the first.
        vectors: vectors of output channels, a shared one included.
        tail: how pixels share the last vector, if they do.
        turn: share of the next tiles' weights to fetch early.
    """

    def __init__(
        self,
        code: Code,
        conv: Conv,
        source: Source,
        pixels: list[int],
        vectors: int,
        tail: Tail | None = None,
        turn: Turn | None = None,
    ) -> None:
        self.code, self.pixels, self.vectors, self.tail = code, pixels, vectors, tail
        self.turn = turn
        self._stretches = STRETCH if len(pixels) > 1 else SHORT_STRETCH
        self.full = vectors - (tail is not None)
        self.channels, self.pitch, self.groups = conv.group_in, source.channel_pitch, conv.groups
        self.order = None if conv.order is None else [c * self.pitch for c in conv.order]
        self.same = self.order is None or conv.groups == 1
        self.taps = [
            ky * conv.dilation[0] * source.row_pitch + kx * conv.dilation[1] * source.pixel_pitch
            for ky in range(conv.kernel_size[0])
            for kx in range(conv.kernel_size[1])
        ]

    def write(self, start: Value, group: Operand, weights: Value) -> list[list[Value]]:
        """Write the sums; return the vectors of each pixel.

        `start` is the first tap of the first pixel; its channel 0, or that of group 0 without an order.
        """
        shared = len(range(0, len(self.pixels), self.tail.pixels)) if self.tail else 0
        shape = f"{len(self.pixels)} pixels x {self.vectors} vectors of outputs"
        self.code.note(f"{shape}: sums over {len(self.taps)} taps x {self.channels} channels")
        zeros = [self.code.vec(0.0)] * (len(self.pixels) * self.full + shared)
        return self._by_pixel(self._sum(start, group, weights, zeros))

    def _by_pixel(self, sums: list[Value]) -> list[list[Value]]:
        full, tail = self.full, self.tail
        rows = [sums[i * full : (i + 1) * full] for i in range(len(self.pixels))]
        if tail is not None:
            shared = sums[len(self.pixels) * full :]
            for i, row in enumerate(rows):
                row.append(tail.part(self.code, shared[i // tail.pixels], i % tail.pixels))
        return rows

    def _sum(self, start: Value, group: Operand, weights: Value, sums: list[Value]) -> list[Value]:
        if self.order is None:
            start = start + group * (self.channels * self.pitch)
        floats = self.channels * self.vectors * self.code.lanes
        if self.same and len(self.taps) * self.channels <= _UNROLLED:
            for t, tap in enumerate(self.taps):
                sums = self._all_channels(start + tap, weights + t * floats, sums)
            return sums
        if len(self.taps) == 1:
            return self._channels(start + self.taps[0], group, weights, sums)
        table = self.code.table(self.taps)

        def body(tap: Operand, sums: list[Value]) -> list[Value]:
            here = start + self.code.load_int(table, tap)
            return self._channels(here, group, weights + tap * floats, sums)

        return self.code.carry(0, len(self.taps), 1, sums, body, "tap")

    def _channels(self, start: Value, group: Operand, weights: Value, sums: list[Value]) -> list[Value]:
        if self.same and self.channels <= 8:
            return self._all_channels(start, weights, sums)
        stretches = self._stretches
        divisors = (n for n in stretches if self.channels % n == 0)
        stretch = max(divisors, key=lambda n: (n % 4 == 0, n), default=0)
        if not stretch:
            return self._range(start, group, weights, sums, 0, self.channels)

        def body(first: Operand, sums: list[Value]) -> list[Value]:
            self._fetch_next()
            zeros = [self.code.vec(0.0)] * len(sums)
            part = self._range(start, group, weights, zeros, first, stretch)
            return [total + one for total, one in zip(sums, part, strict=True)]

        return self.code.carry(0, self.channels, stretch, sums, body, "c")

    def _range(
        self,
        start: Value,
        group: Operand,
        weights: Value,
        sums: list[Value],
        first: Operand,
        count: int,
    ) -> list[Value]:
        step = next(s for s in (4, 5, 3, 7, 2, 1) if count % s == 0)
        width = self.vectors * self.code.lanes
        table = self._table()

        def body(c: Operand, sums: list[Value]) -> list[Value]:
            self._fetch_early(weights + c * width, step)
            for u in range(step):
                if table is None:
                    here = start + c * self.pitch + u * self.pitch
                else:
                    here = start + self.code.load_int(table, group * self.channels + c + u)
                sums = self._term(here, weights + c * width + u * width, sums)
            return sums

        return self.code.carry(first, first + count, step, sums, body, "c")

    def _fetch_next(self) -> None:
        """Fetch a few lines of what comes after these sums."""
        fetch_ahead(self.code)

    def _table(self) -> Value | None:
        """Return where the offsets of the channels stand, if they are in no order that needs none."""
        return None if self.order is None else self.code.table(self.order)

    def _fetch_early(self, weights: Value, terms: int) -> None:
        """Fetch a share of what lies ahead of the weights of some terms: few lines at a time, evenly."""
        if self.turn is None:
            return
        lines, number, shares = terms * self.vectors, self.turn.number, self.turn.shares
        first = number * lines // shares
        for i in range(ceil_div(lines, shares)):
            self.code.prefetch(weights, (first + i) * self.code.lanes + self.turn.ahead)

    def _all_channels(self, start: Value, weights: Value, sums: list[Value]) -> list[Value]:
        for c in range(self.channels):
            offset = c * self.pitch if self.order is None else self.order[c]
            sums = self._term(start + offset, weights + c * self.vectors * self.code.lanes, sums)
        return sums

    def _term(self, x: Value, weights: Value, sums: list[Value]) -> list[Value]:
        code, full = self.code, self.full
        row = [code.load(weights + v * code.lanes, name="w") for v in range(self.vectors)]
        together = self.tail.pixels if self.tail else 1
        out, shared = [], sums[len(self.pixels) * full :]
        for first in range(0, len(self.pixels), together):
            inputs = [code.broadcast(x + offset) for offset in self.pixels[first : first + together]]
            for i, one in enumerate(inputs, first):
                out += [code.fma(one, w, sums[i * full + v]) for v, w in enumerate(row[:full])]
            if self.tail is not None:
                joined = self.tail.join(code, inputs)
                shared[first // together] = code.fma(joined, row[full], shared[first // together])
        return out + shared
