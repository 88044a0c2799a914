"""The end of a kernel: what an `Epilogue` asks of a sum, and the store."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.problems import Epilogue
from regroup.kernels.problems.view import View
from regroup.kernels.templates.parts.activations import activate


@dataclass(frozen=True)
class Pixel:
    """An output pixel: a row and column known at run time plus constants."""

    y: Operand
    x: Operand
    dy: int = 0
    dx: int = 0

    def address(self, view: View, pointer: Value, shift: int = 0) -> Value:
        """Return the address of this pixel's channel 0; `shift` 1 halves both coordinates."""
        if shift:
            y, x = (_half(self.y + self.dy), _half(self.x + self.dx))
            return pointer + _flat(y, x, view)
        return pointer + _flat(self.y, self.x, view) + (self.dy * view.row_pitch + self.dx * view.pixel_pitch)


def _half(index: Operand) -> Operand:
    return index // 2


def _flat(y: Operand, x: Operand, view: View) -> Operand:
    return y * view.row_pitch + x * view.pixel_pitch


class Finish:
    """Finishes sums and stores them.

    Args:
        code: the function being written.
        epilogue: what to do.
        y: the output's view.
        pointers: pointers of the epilogue's views, then of the output.
    """

    def __init__(self, code: Code, epilogue: Epilogue, y: View, pointers: list[Value]) -> None:
        self.code, self.epilogue, self.y = code, epilogue, y
        rest = list(pointers)
        self.residual = rest.pop(0) if epilogue.residual is not None else None
        self.gate = rest.pop(0) if epilogue.gate is not None else None
        self.slope = rest.pop(0) if epilogue.slope is not None else None
        self.out = rest.pop(0)

    def store(self, sums: list[Value], pixel: Pixel, channel: Operand, counts: list[int]) -> None:
        """Store vectors of successive channels of one pixel.

        Args:
            sums: one vector after the other; the bias is in them.
            pixel: where.
            channel: the first channel.
            counts: valid lanes of each vector.
        """
        code, lanes = self.code, self.code.lanes
        residual = self._residual(pixel, channel)
        out = pixel.address(self.y, self.out) + channel
        for i, (total, count) in enumerate(zip(sums, counts, strict=True)):
            added = None if residual is None else code.load(residual + i * lanes, count, "residual")
            code.store(self._value(total, added, channel, i * lanes, count), out + i * lanes, count)

    def _residual(self, pixel: Pixel, channel: Operand) -> Value | None:
        view = self.epilogue.residual
        if view is None or self.residual is None:
            return None
        return pixel.address(view, self.residual, self.epilogue.residual_scale - 1) + channel

    def _value(self, v: Value, added: Value | None, channel: Operand, start: int, count: int) -> Value:
        code, epilogue = self.code, self.epilogue
        if added is not None and epilogue.residual_first:
            v = v + added
        if self.slope is not None:
            v = code.select(
                code.compare("ogt", v, 0.0), v, v * code.load(self.slope + channel + start, count, "slope")
            )
        v = activate(code, epilogue.activation, v)
        if self.gate is not None:
            v = v * code.load(self.gate + channel + start, count, "gate")
        if added is not None and not epilogue.residual_first:
            v = v + added
        return v
