"""Input rows copied to private memory before a convolution reads them, where they are not fit to be read.

Two reasons: a prologue (pre-activation, gate) changes the elements; a planar input (the network's own, NCHW)
has no zeros around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from regroup.kernels.language.code import Code, Operand, Value
from regroup.kernels.problems import Conv, Prologue
from regroup.kernels.templates.base import ceil_div
from regroup.kernels.templates.parts.activations import activate
from regroup.kernels.templates.parts.walk import vectors


@dataclass(frozen=True)
class Source:
    """Where a convolution reads: pitches, and the address of the first tap of a unit's first pixel."""

    pointer: Value
    row_pitch: int
    pixel_pitch: int
    channel_pitch: int
    stride: tuple[int, int]

    def pixel(self, dy: int, dx: int) -> int:
        """Return the offset of an output pixel's first tap."""
        return dy * self.stride[0] * self.row_pitch + dx * self.stride[1] * self.pixel_pitch


@dataclass(frozen=True)
class Unit:
    """Output pixels that are staged together: `rows` x `width` from row `y`, column `x` on."""

    y: Operand
    x: Operand
    rows: int
    width: int


class Direct:
    """No copy: the convolution reads its input where it lies."""

    floats = 0

    def __init__(self, conv: Conv) -> None:
        self.conv = conv

    def emit(self, code: Code, pointers: dict[str, Value], unit: Unit) -> Source:
        """Return where the unit's pixels read."""
        conv, x = self.conv, self.conv.x
        row = unit.y * (conv.stride[0] * x.row_pitch)
        column = unit.x * (conv.stride[1] * x.pixel_pitch)
        corner = -conv.padding[0] * x.row_pitch - conv.padding[1] * x.pixel_pitch
        start = pointers["x"] + row + column + corner
        return Source(start, x.row_pitch, x.pixel_pitch, x.channel_pitch, conv.stride)


class Changed:
    """Pixels of a 1x1 convolution with the prologue applied: (pixel, channel), dense.

    Scales and shifts stand at the start of the packed weights.
    """

    def __init__(self, conv: Conv, rows: int, width: int) -> None:
        self.conv = conv
        self.floats = rows * width * conv.x.channels

    def emit(self, code: Code, pointers: dict[str, Value], unit: Unit) -> Source:
        """Copy the unit's pixels and return where they lie."""
        conv, x, scratch = self.conv, self.conv.x, pointers["scratch"]
        origin = Direct(conv).emit(code, pointers, unit)
        step = next(n for n in (8, 7, 6, 5, 4, 3, 2, 1) if unit.width % n == 0)
        for c, count in vectors(code, x.channels):
            change = prepared(code, conv.prologue, pointers, c, count)
            for dy in range(unit.rows):
                for column in code.each(0, unit.width, step, name="column"):
                    source = origin.pointer + c + column * origin.pixel(0, 1) + origin.pixel(dy, 0)
                    target = scratch + c + column * x.channels + dy * unit.width * x.channels
                    for dx in range(step):
                        v = change(code.load(source + origin.pixel(0, dx), count))
                        code.store(v, target + dx * x.channels, count)
        return Source(scratch, unit.width * x.channels, x.channels, 1, (1, 1))


def prepared(
    code: Code, prologue: Prologue, pointers: dict[str, Value], channel: Operand, count: int
) -> Callable[[Value], Value]:
    """Return what applies a prologue to a vector of input channels, of any pixel.

    `pointers` holds "gate", "scale" and "shift" as far as the prologue has them.
    """
    names = ["gate"] * (prologue.gate is not None) + ["scale", "shift"] * prologue.affine
    numbers = {name: code.load(pointers[name] + channel, count) for name in names}

    def change(v: Value) -> Value:
        if "gate" in numbers:
            v = v * numbers["gate"]
        if prologue.affine:
            v = code.fma(v, numbers["scale"], numbers["shift"])
        return activate(code, prologue.activation, v)

    return change


class Planar:
    """Rows of an NCHW input with zeros at the borders: (channel, row, column)."""

    def __init__(self, conv: Conv, rows: int) -> None:
        (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
        self.conv = conv
        self.width = (conv.y.width - 1) * sw + (kw - 1) * dw + 1
        self.height = (rows - 1) * sh + (kh - 1) * dh + 1
        self.floats = conv.x.channels * self.height * self.width

    def emit(self, code: Code, pointers: dict[str, Value], unit: Unit) -> Source:
        """Copy the rows under the unit and return where they lie."""
        conv, x = self.conv, self.conv.x
        height = (unit.rows - 1) * conv.stride[0] + (conv.kernel_size[0] - 1) * conv.dilation[0] + 1
        first = unit.y * conv.stride[0]
        for channel in code.each(0, x.channels):
            for r in code.each(0, height):
                row = code.integer(first) + r - conv.padding[0]
                target = pointers["scratch"] + channel * (self.height * self.width) + r * self.width
                inside = code.compare("ult", row, x.height)
                source = pointers["x"] + channel * x.channel_pitch + row * x.row_pitch
                code.either(
                    inside,
                    lambda s=source, t=target: self._row(code, s, t),
                    lambda t=target: self._zero(code, t),
                )
        return Source(pointers["scratch"], self.width, 1, self.height * self.width, conv.stride)

    def _row(self, code: Code, source: Value, target: Value) -> None:
        left = max(self.conv.padding[1], 0)
        skip = max(-self.conv.padding[1], 0)
        count = max(0, min(self.conv.x.width - skip, self.width - left))
        fill(code, target, 0, left)
        lanes = code.lanes
        for start, stop, size in (
            (0, count - count % lanes, lanes),
            (count - count % lanes, count, count % lanes),
        ):
            for i in code.each(start, stop, lanes) if stop > start else ():
                code.store(code.load(source + i + skip, size), target + i + left, size)
        fill(code, target, left + count, self.width)

    def _zero(self, code: Code, target: Value) -> None:
        fill(code, target, 0, self.width)


def fill(code: Code, pointer: Value, start: int, stop: int) -> None:
    """Write zeros to floats `start` to `stop`."""
    whole = (stop - start) // code.lanes * code.lanes
    for i in code.each(start, start + whole, code.lanes) if whole else ():
        code.store(code.vec(0.0), pointer + i)
    if stop - start - whole > 0:
        code.store(code.vec(0.0), pointer + (start + whole), stop - start - whole)


Stage = Direct | Changed | Planar


def stage(conv: Conv, rows: int, width: int) -> Stage:
    """Return how a convolution gets at its input, `rows` x `width` output pixels at a time."""
    if conv.prologue != Prologue():
        return Changed(conv, rows, width)
    if conv.x.channel_pitch != 1:
        return Planar(conv, rows)
    return Direct(conv)


def pack_prologue(conv: Conv, lanes: int, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a prologue's scales, then its shifts, each padded to whole vectors (zeros if not given)."""
    if not conv.prologue.affine:
        return np.zeros(0, np.float32)
    packed = np.zeros((2, ceil_div(conv.x.channels, lanes) * lanes), np.float32)
    for row, name in zip(packed, ("in_scale", "in_shift"), strict=True):
        row[: conv.x.channels] = parameters.get(name, 0)
    return packed.ravel()
