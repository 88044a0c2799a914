"""Writes the function of a convolution of integers."""

from __future__ import annotations

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.language.functions import nearest
from regroup.kernels.language.integers import as_floats, broadcast_int, load_ints, splat_int, store_ints
from regroup.kernels.problems.blocks import words
from regroup.kernels.templates.base import Run, choose, pieces
from regroup.kernels.templates.integers.cut import Cut
from regroup.kernels.templates.integers.packing import BATCH, unpack
from regroup.kernels.templates.parts.fetch import fetch_ahead, goes_on
from regroup.kernels.templates.parts.finish import Finish, Pixel
from regroup.kernels.templates.parts.tiles import valid_lanes

_UNROLLED = 16
"""Words of a block that are written out one after the other at most."""


class Writer:
    """Writes work items.

    Args:
        cut: tiles and weights.
        code: the function being written.
        views: pointers of the problem's views, then of the weights.
    """

    def __init__(self, cut: Cut, code: Code, views: list[Value]) -> None:
        self.cut, self.conv, self.code = cut, cut.conv, code
        self.form, self.blocks = self.conv.form, self.conv.form.blocks
        self.x, self.given, self.weights = views[0], views[1], views[-1]
        self.bytes = code.arguments[3]
        self.finish = Finish(code, self.conv.epilogue, self.conv.y, views[2:-1])
        conv, x = self.conv, self.conv.x
        places = [(ky, kx) for ky in range(conv.kernel_size[0]) for kx in range(conv.kernel_size[1])]
        self.places = [(ky * conv.dilation[0], kx * conv.dilation[1]) for ky, kx in places]
        self.taps = [ky * x.row_pitch + kx * x.pixel_pitch for ky, kx in self.places]

    def item(self, item: Operand, low: Operand) -> None:
        """Write one block of output channels of one unit of pixels; `low` is the call's first item."""
        code, cut = self.code, self.cut
        units, count = pieces(cut.units), pieces(cut.blocks)
        number, unit = item // units, item % units
        group = 0 if self.blocks.groups == 1 else number // count

        def in_block(vector: Operand, run: Run) -> None:
            skipped = sum(cut.block_floats(size) * n for first, size, n in cut.blocks if first < run[0])
            own = (code.integer(vector) - run[0]) // run[1] * cut.block_floats(run[1]) + skipped
            weights = self.weights + group * cut.group_floats + own
            begins = code.binary("and", code.compare("eq", item, low), code.compare("eq", goes_on(code), 0))
            for _ in code.when(code.binary("or", begins, code.compare("eq", unit, 0))):
                self._unpack(weights, run[1])
            place = group, group * cut.group_out + vector * code.lanes
            counts = valid_lanes(cut.group_out, run, code.lanes)
            choose(code, unit, cut.units, lambda y, rows: self._unit((y, rows[1]), place, weights, counts))

        choose(code, number % count, cut.blocks, in_block)

    def _unpack(self, weights: Value, vectors: int) -> None:
        """Write the unpacking of a block's weights to bytes."""
        code, cut = self.code, self.cut
        code.note("unpack weights")
        source = weights + (1 + cut.shifts) * vectors * code.lanes
        for batch in code.each(0, cut.packed_rows(vectors) // self.conv.bits, name="batch"):
            found = unpack(code, source + batch * (self.conv.bits * code.lanes), self.conv.bits)
            for i, one in enumerate(found):
                store_ints(code, one, self.bytes + batch * (BATCH * code.lanes) + i * code.lanes)

    def _unit(
        self, rows: tuple[Operand, int], place: tuple[Operand, Operand], weights: Value, counts: list[int]
    ) -> None:
        code = self.code
        for first, width, count in self.cut.columns:
            for i in code.each(0, count, name="column"):
                fetch_ahead(code)
                self._tile((rows[0], i * width + first), (rows[1], width), place, weights, counts)

    def _tile(
        self,
        corner: tuple[Operand, Operand],
        size: tuple[int, int],
        place: tuple[Operand, Operand],
        weights: Value,
        counts: list[int],
    ) -> None:
        """Write a tile of pixels: by exact sums, and again by the definition where a result is no number."""
        code, conv, x = self.code, self.conv, self.conv.x
        (row, column), (rows, width), lanes = corner, size, self.code.lanes
        start = self.x + row * (conv.stride[0] * x.row_pitch) + column * (conv.stride[1] * x.pixel_pitch)
        start = start - (conv.padding[0] * x.row_pitch + conv.padding[1] * x.pixel_pitch)
        offsets = [
            dy * conv.stride[0] * x.row_pitch + dx * conv.stride[1] * x.pixel_pitch
            for dy in range(rows)
            for dx in range(width)
        ]
        shifts = weights + len(counts) * lanes
        sums = self._sums(start, place[0], shifts, offsets, len(counts))

        def finished(total: list[Value], pixel: Pixel, first: int, mine: list[int]) -> None:
            biased = [v + code.load(weights + (first + i) * lanes, name="bias") for i, v in enumerate(total)]
            self.finish.store(biased, pixel, place[1] + first * lanes, mine)

        def store() -> None:
            for i, pixel in enumerate((dy, dx) for dy in range(rows) for dx in range(width)):
                mine = sums[i * len(counts) : (i + 1) * len(counts)]
                finished(mine, Pixel(row, column, *pixel), 0, counts)

        def define() -> None:
            for dy in code.each(0, rows, name="row"):
                for dx in code.each(0, width, name="column"):
                    for v, count in enumerate(counts):
                        at = code.integer(row) + dy, code.integer(column) + dx
                        total = self._definition(at, place[0], shifts, v, len(counts))
                        finished([total], Pixel(*at), v, [count])

        code.either(_all_numbers(code, sums), store, define)

    def _sums(
        self, start: Value, group: Operand, shifts: Value, offsets: list[int], vectors: int
    ) -> list[Value]:
        """Write the scaled sums over taps and blocks; return the vectors of each pixel."""
        code, form, blocks = self.code, self.form, self.blocks
        code.note(
            f"{len(offsets)} pixels x {vectors} vectors: {len(self.taps)} taps, {blocks.per_group} blocks"
        )
        table, width = code.table(self.taps), vectors * code.lanes
        zeros = [code.vec(0.0)] * (len(offsets) * vectors)

        def at_tap(tap: Operand, sums: list[Value]) -> list[Value]:
            here = start + code.load_int(table, tap)
            number, word = group * blocks.per_group, group * form.group_words
            own_shift, own_word = tap * (blocks.per_group * width), tap * (form.group_words * width)
            done = skipped = 0
            for _, size, count in blocks.of_group:

                def at_block(i: Operand, sums: list[Value], d=done, s=skipped, size=size) -> list[Value]:
                    pointers = (
                        here + word + (i * words(size) + s),
                        here + number + (i + d),
                        self.bytes + own_word + (i * words(size) + s) * width,
                        shifts + own_shift + (i + d) * width,
                    )
                    return self._block(pointers, words(size), offsets, sums)

                sums = code.carry(0, count, 1, sums, at_block, "block")
                done, skipped = done + count, skipped + count * words(size)
            return sums

        return code.carry(0, len(self.taps), 1, zeros, at_tap, "tap")

    def _block(
        self, pointers: tuple[Value, Value, Value, Value], size: int, offsets: list[int], sums: list[Value]
    ) -> list[Value]:
        """Write the exact sums of a block of channels, scaled and added to `sums`."""
        code, form, way = self.code, self.form, self.cut.way
        source, numbers, weights, shifts = pointers
        vectors = len(sums) // len(offsets)
        width = vectors * code.lanes
        begin = [broadcast_int(code, numbers + form.sums + offset) for offset in offsets]
        totals = [one for one in begin for _ in range(vectors)]
        stretch = min(way.at_once, _UNROLLED)

        def some(first: Operand, totals: list[Value], count: int) -> list[Value]:
            partial: list[Value | None] = [way.start(total) for total in totals]
            for word in range(count):
                at = weights + first * width + word * width
                row = [load_ints(code, at + v * code.lanes) for v in range(vectors)]
                for p, offset in enumerate(offsets):
                    byte = source + offset + first + word
                    for v in range(vectors):
                        i = p * vectors + v
                        partial[i] = way.add(code, partial[i], row[v], byte)
            return [way.finish(code, t, s) for t, s in zip(totals, partial, strict=True) if s is not None]

        whole = size - size % stretch
        if whole:
            totals = code.carry(0, whole, stretch, totals, lambda i, t: some(i, t, stretch), "word")
        if size > whole:
            totals = some(whole, totals, size - whole)
        scales = [code.load(shifts + v * code.lanes, name="shift") for v in range(vectors)]
        found = []
        for p, offset in enumerate(offsets):
            step = code.broadcast(numbers + form.steps + offset)
            for v in range(vectors):
                i = p * vectors + v
                found.append(code.fma(as_floats(code, totals[i]) * step, scales[v], sums[i]))
        return found

    def _definition(
        self, at: tuple[Value, Value], group: Operand, shifts: Value, vector: int, vectors: int
    ) -> Value:
        """Write one pixel's vector of outputs, number by number; only pixels of the image are read."""
        code, conv, form, blocks = self.code, self.conv, self.form, self.blocks
        x, given, width = conv.x, conv.given, vectors * code.lanes
        total = self.bytes + self.cut.definition
        code.store(code.vec(0.0), total)
        for tap, (ky, kx) in enumerate(self.places):
            y = at[0] * conv.stride[0] + (ky - conv.padding[0])
            column = at[1] * conv.stride[1] + (kx - conv.padding[1])
            inside = code.binary("and", _within(code, y, given.height), _within(code, column, given.width))
            for _ in code.when(inside):
                numbers = self.given + y * given.row_pitch + column * given.pixel_pitch
                steps = self.x + y * x.row_pitch + column * x.pixel_pitch + form.all_steps
                done = skipped = 0
                for first, size, count in blocks.of_group:
                    for i in code.each(0, count, name="block"):
                        block = i + done
                        step = code.load_scalar(steps + group * blocks.per_group + block)
                        scale = code.load(
                            shifts + (block + tap * blocks.per_group) * width + vector * code.lanes
                        )
                        for c in code.each(0, size, name="c"):
                            number = code.load_scalar(numbers + group * blocks.depth + (i * size + first) + c)
                            number = nearest(code, number / step) * step
                            word = c // 4 + (i * words(size) + skipped) + tap * form.group_words
                            weight = self._weight(self.bytes + word * width + vector * code.lanes, c % 4)
                            code.store(code.fma(weight * scale, code.splat(number), code.load(total)), total)
                    done, skipped = done + count, skipped + count * words(size)
        return code.load(total)

    def _weight(self, pointer: Value, byte: Operand) -> Value:
        """Return one byte of each word of a vector of weights, as floats with their sign."""
        code = self.code
        bits = code.narrowed(code.integer(byte) * 8)
        moved = code.binary("lshr", load_ints(code, pointer), splat_int(code, bits))
        return as_floats(code, code.binary("and", moved, 255) - self.form.offset)


def _within(code: Code, index: Value, size: int) -> Value:
    return code.compare("ult", index, size)


def _all_numbers(code: Code, vectors: list[Value]) -> Value:
    """Return whether no lane of any vector is NaN."""
    total, bits = sum(vectors[1:], start=vectors[0]), f"i{code.lanes}"
    mask = code.compare("uno", total, total)
    return code.compare("eq", code.emit(bits, f"bitcast {mask.type} {mask} to {bits}"), 0)
