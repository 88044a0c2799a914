"""The code: transform of a strip's inputs, matrix products, transform of the sums, store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv
from regroup.kernels.problems.view import View
from regroup.kernels.templates.base import Run, choose, pieces, split
from regroup.kernels.templates.parts.fetch import fetch_ahead, goes_on
from regroup.kernels.templates.parts.finish import Finish, Pixel
from regroup.kernels.templates.parts.reduce import Reduction, Turn
from regroup.kernels.templates.parts.stage import Direct, Source, Unit
from regroup.kernels.templates.parts.tiles import valid_lanes
from regroup.kernels.templates.parts.walk import vectors
from regroup.kernels.templates.winograd.cut import POSITIONS, Cut


class Writer:
    """Writes the function of a kernel.

    Args:
        conv: the convolution.
        cut: how it is cut.
        code: the function.
        views: pointers of its views, and of the weights.

    Attributes:
        definitions: the functions that it calls for tiles with results that are not finite.
    """

    def __init__(self, conv: Conv, cut: Cut, code: Code, views: list[Value]) -> None:
        self.conv, self.cut, self.code = conv, cut, code
        self.x, self.weights = views[0], views[-1]
        self.inputs = code.arguments[3]
        self.sums = self.inputs + cut.input_floats
        self.finish = Finish(code, self.conv.epilogue, self.conv.y, views[1:-1])
        self.definitions: list[Code] = []
        self._names: dict[tuple[int, ...], str] = {}

    def item(self, item: Operand, low: Operand) -> None:
        """Write one block of output channels of one strip of tiles; `low` is the call's first item."""
        code, cut = self.code, self.cut
        count = pieces(cut.blocks)
        strip, block = item // cut.per_strip, item % cut.per_strip
        group = 0 if self.conv.groups == 1 else block // count

        def in_strip(start: Operand, tiles: Run) -> None:
            begins = code.binary("and", code.compare("eq", item, low), code.compare("eq", goes_on(code), 0))
            fresh = code.binary("or", begins, code.compare("eq", block, 0))
            for _ in code.when(fresh):
                self._transform(start, tiles[1])

            def in_block(vector: Operand, run: Run) -> None:
                counts = valid_lanes(self.conv.group_out, run, code.lanes)
                weights = self.weights + group * cut.group_floats + vector * cut.vector_floats
                self._products(tiles[1], group, weights + run[1] * code.lanes, run[1])
                self._outputs(start, tiles[1], (group, vector), weights, counts)

            choose(code, block % count, cut.blocks, in_block)

        choose(code, strip, cut.strips, in_strip)

    def _transform(self, start: Operand, tiles: int) -> None:
        """Write the transform of a strip's inputs: (position, tile, channel)."""
        code, pitch = self.code, self.cut.pitch
        code.note("transform of inputs")
        for tile in code.each(0, tiles, name="tile"):
            patch = list(self._patch(*self._corner(start + tile)))
            target = self.inputs + tile * pitch
            for c, count in vectors(code, self.conv.x.channels):
                grid = [[code.load(at + c, count) for at in row] for row in patch]
                for position, v in enumerate(_both_axes(_input_axis, grid)):
                    code.store(v, target + c + position * (tiles * pitch))

    def _corner(self, tile: Operand) -> tuple[Operand, Operand]:
        """Return the first output pixel of a tile of the image."""
        tile, across = self.code.integer(tile), self.cut.grid[1]
        return tile // across * 2, tile % across * 2

    def _patch(self, y: Operand, x: Operand) -> Iterator[list[Value]]:
        """Yield the addresses of four rows of inputs; for what only pixels outside read, others again."""
        code, view, (height, width) = self.code, self.conv.x, (self.conv.y.height, self.conv.y.width)
        source = Direct(self.conv).emit(code, {"x": self.x}, Unit(0, x, 1, 1)).pointer
        last = 3 if width % 2 == 0 else code.smaller(x + 3, width + 1) - x
        for i in range(4):
            row = y + i if i < 3 or height % 2 == 0 else code.smaller(y + i, height + 1)
            start = source + row * view.row_pitch
            yield [start + j * view.pixel_pitch for j in (0, 1, 2, last)]

    def _products(self, tiles: int, group: Operand, weights: Value, nv: int) -> None:
        """Write the matrix products: sums (position, tile, vector)."""
        code, cut, width = self.code, self.cut, nv * self.code.lanes
        floats, runs, done = cut.stored * width, split(tiles, cut.pixels), 0
        one = replace(self.conv, kernel_size=(1, 1), padding=(0, 0), order=None)
        code.note("matrix products, one for each position of a transformed patch")
        for position in code.each(0, POSITIONS, name="position"):
            inputs = self.inputs + position * (tiles * cut.pitch)
            for first, pixels, count in runs:
                for i in code.each(0, count):
                    tile = position * tiles + (i * pixels + first)
                    source = Source(inputs, 0, cut.pitch, 1, (1, 1))
                    start = inputs + (i * pixels + first) * cut.pitch
                    offsets = [source.pixel(0, p) for p in range(pixels)]
                    fetch_ahead(code)
                    turn = Turn(floats, i + done, pieces(runs))
                    reduction = Reduction(code, one, source, offsets, nv, None, turn)
                    sums = reduction.write(start, group, weights + position * floats)
                    for p, mine in enumerate(sums):
                        for v, total in enumerate(mine):
                            code.store(total, self.sums + tile * width + (p * width + v * code.lanes))
                done += count

    def _outputs(
        self, start: Operand, tiles: int, place: tuple[Operand, Operand], weights: Value, counts: list[int]
    ) -> None:
        """Write the transform of the sums and the end of the kernel, tile by tile."""
        code, (group, vector), width = self.code, place, len(counts) * self.code.lanes
        code.note("transform of sums, bias and epilogue")
        bias = [code.load(weights + v, name="bias") for v in range(0, width, code.lanes)]
        channel = group * self.conv.group_out + vector * code.lanes
        definition = self._definition(counts)
        for tile in code.each(0, tiles, name="tile"):
            y, x = self._corner(start + tile)
            sums = self.sums + tile * width
            found = [self._output(sums + v, tiles * width) for v in range(0, width, code.lanes)]
            store = self._stores(found, bias, Pixel(y, x), channel, counts)
            where = [code.integer(n) for n in (y, x, group, vector)]
            call = self._calls(definition, where)
            code.either(_finite(code, [v for mine in found for v in mine]), store, call)

    def _output(self, sums: Value, pitch: int) -> list[Value]:
        """Return a vector for each pixel of a tile, whose positions lie `pitch` floats apart."""
        flat = [self.code.load(sums + position * pitch) for position in range(POSITIONS)]
        return _both_axes(_output_axis, [flat[i : i + 4] for i in range(0, POSITIONS, 4)])

    def _stores(
        self, found: list[list[Value]], bias: list[Value], corner: Pixel, channel: Operand, counts: list[int]
    ) -> Callable[[], None]:
        """Return what writes the storing of a tile."""

        def write() -> None:
            for i in range(4):
                pixel = Pixel(corner.y, corner.x, i // 2, i % 2)
                total = [mine[i] + b for mine, b in zip(found, bias, strict=True)]
                for _ in _inside(self.code, self.conv.y, pixel):
                    self.finish.store(total, pixel, channel, counts)

        return write

    def _calls(self, definition: str, where: list[Value]) -> Callable[[], None]:
        """Return what writes the call that does a tile by the definition."""
        views, *_, scratch = self.code.arguments
        return lambda: self.code.invoke(definition, views, *where[:2], scratch, *where[2:])

    def _definition(self, counts: list[int]) -> str:
        """Return the name of the function that does a tile by the definition."""
        key = tuple(counts)
        if key not in self._names:
            self._names[key] = name = f"{self.code.name}_{len(self._names)}"
            self.definitions.append(_by_definition(self.conv, self.cut, self.code.target, name, counts))
        return self._names[key]


def _by_definition(conv: Conv, cut: Cut, target: Target, name: str, counts: list[int]) -> Code:
    """Return a function for one block of output channels of one tile; hardly ever called, it is short."""
    lanes = target.lanes
    index = f"i{8 * target.pointer}"
    integers = dict.fromkeys(("group", "vector"), index)
    code = Code(target, name, views="ptr", y=index, x=index, scratch="ptr", **integers)
    code.internal = True
    table, y, x, _, group, vector = code.arguments
    views = [code.load_pointer(table, i) for i in range(len(conv.views) + 1)]
    finish = Finish(code, conv.epilogue, conv.y, views[1:-1])
    bias = views[-1] + group * cut.group_floats + vector * cut.vector_floats
    given = views[-1] + conv.groups * cut.group_floats + group * cut.given_floats
    weights = given + vector * (9 * conv.group_in * lanes)
    for i in code.each(0, 4):
        pixel = Pixel(y + i // 2, x + i % 2)
        for _ in _inside(code, conv.y, pixel):
            source = Direct(conv).emit(code, {"x": views[0]}, Unit(pixel.y, pixel.x, 1, 1))
            (sums,) = Reduction(code, conv, source, [0], len(counts)).write(source.pointer, group, weights)
            total = [s + code.load(bias + v * lanes) for v, s in enumerate(sums)]
            finish.store(total, pixel, group * conv.group_out + vector * lanes, counts)
    return code


def _inside(code: Code, view: View, pixel: Pixel) -> Iterator[None]:
    """Write an if: the pixel lies in the image."""
    row = code.compare("slt", pixel.y + pixel.dy, view.height)
    column = code.compare("slt", pixel.x + pixel.dx, view.width)
    yield from code.when(code.binary("and", row, column))


def _both_axes(one: Callable[[list[Value]], list[Value]], grid: list[list[Value]]) -> list[Value]:
    """Transform the columns of a grid, then the rows; return it row by row."""
    columns = [one([row[j] for row in grid]) for j in range(4)]
    return [v for row in zip(*columns, strict=True) for v in one(list(row))]


def _input_axis(d: list[Value]) -> list[Value]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output_axis(m: list[Value]) -> list[Value]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _finite(code: Code, vectors: list[Value]) -> Value:
    """Return whether vectors are finite, and so is their sum."""
    total = sum(vectors[1:], start=vectors[0])
    nothing, bits = total - total, f"i{code.lanes}"
    mask = code.compare("uno", nothing, nothing)
    return code.compare("eq", code.emit(bits, f"bitcast {mask.type} {mask} to {bits}"), 0)
