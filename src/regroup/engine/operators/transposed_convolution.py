"""Transposed convolution: a convolution for each phase of the stride, which write between one another.

Output pixel o takes tap k from input pixel i where o = i * stride - padding + k * dilation. So the outputs of
one phase, o mod stride, take some of the taps, evenly spaced, from neighbouring pixels: a plain convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import gcd

import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Node, Op, Pair, Ref, Shape, Value
from regroup.engine.operators.convolution import Windows
from regroup.engine.placing.slots import ACTIVATION, slots_of
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, known, recognises
from regroup.kernels import problems as kernels
from regroup.kernels.problems import Problem
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.templates.halo import Zeros


@dataclass(frozen=True)
class _Phase:
    """Outputs `start`, `start + stride`, ... of one direction.

    Attributes:
        start: the first.
        count: how many.
        taps: of the kernel, by increasing input pixel.
        padding: pixels before the image that the first of them reads; negative where it starts inside.
        dilation: input pixels from one tap to the next.
    """

    start: int
    count: int
    taps: tuple[int, ...]
    padding: int
    dilation: int


@dataclass(frozen=True, eq=False)
class ConvTranspose(Windows):
    """Transposed convolution; weight is (out_channels, in_channels / groups, height, width).

    Attributes:
        groups: as of a convolution.
        extra: rows and columns that the result has more (PyTorch's output_padding).
    """

    groups: int = 1
    extra: Pair = (0, 0)

    slots = ACTIVATION
    word = "transposed conv"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,), padding = inputs, (self.padding[0], self.padding[2])
        grouped = self.weight.to(x.dtype).unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv_transpose2d(
            x, grouped, bias, self.stride, padding, self.extra, self.groups, self.dilation
        )

    def shape(self, *inputs: Shape) -> Shape:
        outputs, each = self.weight.shape[:2]
        (channels, *image), pads = inputs[0], (sum(self.padding[:2]), sum(self.padding[2:]))
        if channels != each * self.groups or outputs % self.groups:
            raise ValueError(f"weights {list(self.weight.shape)} in {self.groups} groups")
        sizes = [
            (size - 1) * s - p + d * (k - 1) + 1 + e
            for size, s, p, d, k, e in zip(
                image, self.stride, pads, self.dilation, self.kernel_size, self.extra, strict=True
            )
        ]
        return (outputs, *sizes)

    def phases(self, axis: int, size: int) -> list[_Phase]:
        """Return the phases of an axis whose result has so many pixels."""
        stride, dilation = self.stride[axis], self.dilation[axis]
        padding, apart = self.padding[2 * axis], dilation // gcd(stride, dilation)
        found = []
        for start in range(min(stride, size)):
            taps = [
                k for k in range(self.kernel_size[axis]) if (start + padding - k * dilation) % stride == 0
            ]
            first = (start + padding - taps[-1] * dilation) // stride if taps else 0
            found.append(_Phase(start, -(-(size - start) // stride), tuple(taps[::-1]), -first, apart))
        return found

    def halo(self, x: Value, y: Value) -> Halo:
        halo = Halo()
        source = View.nhwc(x.shape[1], x.shape[2], x.shape[0])
        for rows, columns in self._pairs(y.shape):
            result = View.nhwc(rows.count, columns.count, y.shape[0])
            halo = halo.union(self._problem(source, result, rows, columns).x_halo)
        return halo

    def lower(self, node: Node, tasks: Tasks) -> None:
        x, channels = tasks.place(node.inputs[0]), tuple(range(self.weight.shape[0]))
        y, work = tasks.settle(node, channels), slots_of(node)
        if y.slab.halo:  # no phase is the whole, and knows what lies around
            tasks.add("zeros around", (), y, lambda: Zeros(y.view(), y.view()))
        for rows, columns in self._pairs(node.output.shape):

            def problem(rows: _Phase = rows, columns: _Phase = columns) -> Problem:
                whole = y.view()
                part = replace(
                    whole,
                    height=rows.count,
                    width=columns.count,
                    row_pitch=whole.row_pitch * self.stride[0],
                    pixel_pitch=whole.pixel_pitch * self.stride[1],
                    halo=Halo(),
                    offset=whole.offset + rows.start * whole.row_pitch + columns.start * whole.pixel_pitch,
                )
                found = self._problem(x.view(), part, rows, columns)
                after = kernels.Epilogue(self.bias is not None, work.activation)
                return replace(found, order=x.order, epilogue=after)

            weight = self.weight[:, :, list(rows.taps)][..., list(columns.taps)]
            tasks.add(node.op.word, (x,), y, problem, {"weight": weight, "bias": self.bias}, node)

    def _pairs(self, shape: Shape) -> Iterator[tuple[_Phase, _Phase]]:
        return product(self.phases(0, shape[1]), self.phases(1, shape[2]))

    def _problem(self, x: View, y: View, rows: _Phase, columns: _Phase) -> kernels.Conv:
        return kernels.Conv(
            x,
            y,
            kernel_size=(len(rows.taps), len(columns.taps)),
            padding=(rows.padding, columns.padding),
            dilation=(rows.dilation, columns.dilation),
            groups=self.groups,
        )


@recognises("convolution")
def _transposed(call: Call) -> Op | None:
    image = isinstance(call.input, Ref) and len(call.shape(call.input)) == 3
    if not call.transposed or not image or not known(call.weight, call.bias):
        return None
    top, left = call.padding
    weight = call.weight.unflatten(0, (call.groups, -1)).transpose(1, 2).flatten(0, 1)
    sizes = tuple(call.stride), (top, top, left, left), tuple(call.dilation)
    found = ConvTranspose(weight, call.bias, *sizes, call.groups, tuple(call.output_padding))
    phases = [phase for axis in (0, 1) for phase in found.phases(axis, call.out[1 + axis])]
    return found if all(phase.taps for phase in phases) else None  # else some pixels are the bias alone
