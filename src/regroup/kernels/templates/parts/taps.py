"""The inner loop of depthwise and narrow-grouped convolution: the sums over taps in a register tile."""

from __future__ import annotations

from collections.abc import Callable

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.problems import Conv
from regroup.kernels.templates.parts.blocks import Block
from regroup.kernels.templates.parts.walk import gather, repeat


class TapSums:
    """Writes the sums of a tile of pixels, for one vector of output channels.

    Weights lie in the order tap row, tap column, input of the group; before them lies the bias.

    Args:
        code: the function being written.
        conv: what to compute.
        block: which output channels the vector holds.
        pixels: pixels of a vector, `width` columns apart.
        width: columns of the tile.
    """

    def __init__(self, code: Code, conv: Conv, block: Block, pixels: int, width: int) -> None:
        self.code, self.conv, self.block = code, conv, block
        self.pixels, self.width = pixels, width

    def write(self, at: Value, weights: Value, height: int) -> dict[tuple[int, int], Value]:
        """Write the sums of a tile of `height` rows: row of inputs by row of inputs.

        One row of outputs takes its rows of taps in a loop, which keeps the code short; several rows share
        input rows, so their code is written out.
        """
        code, conv, width = self.code, self.conv, self.width
        kh, stride, dilation = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
        places = [(oy, ox) for oy in range(height) for ox in range(width)]
        bias, weights = code.load(weights), weights + code.lanes
        # few terms may as well start from the bias; on top of a large one many would round more
        last = conv.group_in > 1
        sums = [code.vec(0.0) if last else bias] * len(places)
        row = conv.kernel_size[1] * conv.group_in * code.lanes
        if height == 1:

            def body(ky: Operand, sums: list[Value]) -> list[Value]:
                here = at + ky * (dilation * conv.x.row_pitch)
                return self._row(here, weights + ky * row, [(0, 0)], sums)

            sums = code.carry(0, kh, 1, sums, body, "ky")
        else:
            for iy in sorted({oy * stride + ky * dilation for oy in range(height) for ky in range(kh)}):
                uses = [
                    (oy, (iy - oy * stride) // dilation)
                    for oy in range(height)
                    if _is_tap(iy - oy * stride, dilation, kh)
                ]
                sums = self._row(at + iy * conv.x.row_pitch, weights, uses, sums)
        sums = [total + bias for total in sums] if last else sums
        return dict(zip(places, sums, strict=True))

    def _row(self, at: Value, weights: Value, uses: list[tuple[int, int]], sums: list[Value]) -> list[Value]:
        """Write what one row of inputs adds: to output rows `oy` by tap rows `ky`, the pairs of `uses`."""
        code, block, inputs = self.code, self.block, self.conv.group_in
        if not block.looped:
            for j, row in enumerate(block.picks):
                taps = weights + j * code.lanes
                sums = self._products(lambda at, row=row: self._input(row, at), at, taps, uses, sums)
            return sums
        table = code.table([row[0] for row in block.picks])
        step = next(s for s in (4, 3, 2, 1) if inputs % s == 0)

        def body(j: Operand, sums: list[Value]) -> list[Value]:
            for i in range(step):
                here = at + code.load_int(table, j + i)
                taps = weights + (j + i) * code.lanes
                sums = self._products(lambda at: self._repeated(at), here, taps, uses, sums)
            return sums

        return code.carry(0, inputs, step, sums, body, "j")

    def _products(
        self,
        load: Callable[[Value], Value],
        at: Value,
        weights: Value,
        uses: list[tuple[int, int]],
        sums: list[Value],
    ) -> list[Value]:
        """Write what one input of each group adds, along a row."""
        code, conv = self.code, self.conv
        (_, kw), stride, dilation = conv.kernel_size, conv.stride[1], conv.dilation[1]
        sums, width = list(sums), self.width
        taps = {
            (ky, kx): code.load(weights + (ky * kw + kx) * conv.group_in * code.lanes, name="w")
            for _, ky in uses
            for kx in range(kw)
        }
        for ix in sorted({ox * stride + kx * dilation for ox in range(width) for kx in range(kw)}):
            v = load(at + ix * conv.x.pixel_pitch)
            for kx in range(kw):
                ox, rest = divmod(ix - kx * dilation, stride)
                if rest or not 0 <= ox < width:
                    continue
                for oy, ky in uses:
                    sums[oy * width + ox] = code.fma(v, taps[ky, kx], sums[oy * width + ox])
        return sums

    def _input(self, row: tuple[int, ...], at: Value) -> Value:
        """Return the vector of one input of each group, for the pixel at an address."""
        if self.block.repeats:
            return self._repeated(at + row[0])
        return gather(self.code, at, self.block.spread(row), self.block.limit)

    def _repeated(self, at: Value) -> Value:
        code, conv, block = self.code, self.conv, self.block
        v = repeat(code, at, block.groups)
        if self.pixels == 1:
            return v
        other = repeat(code, at + self.width * conv.stride[1] * conv.x.pixel_pitch, block.groups)
        return code.select(code.lane_mask(range(code.lanes // 2, code.lanes)), other, v)


def _is_tap(distance: int, dilation: int, taps: int) -> bool:
    return distance % dilation == 0 and 0 <= distance // dilation < taps
