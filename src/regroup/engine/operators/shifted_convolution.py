"""DSConv: integers of a few bits and shifts, on activations in block floating point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from regroup.engine.graph import Node, Op, Shape
from regroup.engine.operators.block_floating_point import BlockFloatingPoint
from regroup.engine.operators.convolution import Conv, Windows
from regroup.engine.placing.places import Place, Slab
from regroup.engine.placing.slots import slots_of
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, Found, known, recognises
from regroup.kernels import problems as kernels
from regroup.kernels.problems import Problem
from regroup.kernels.problems.view import Halo
from regroup.kernels.templates.integers.sums import fits, gains
from regroup.ops.shifted import ShiftedForm


@dataclass(frozen=True, eq=False)
class ShiftedConv(Windows):
    """Convolution of activations in block floating point with integers times shifts.

    `weight` is integers (out_channels, in_channels / groups, height, width); `shifts` are (out_channels,
    blocks of a group, height, width).
    """

    shifts: Tensor | None = None
    form: Any = None
    groups: int = 1

    word = "integer conv"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        x = self.form.activations(inputs[0], self.groups)
        return self.of_floats.evaluate(x)

    @property
    def of_floats(self) -> Conv:
        """The convolution by what integers and shifts stand for."""
        weight = self.form.dequantise(self.weight, self._shifts)
        return Conv(weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    @property
    def _shifts(self) -> Tensor:
        assert self.shifts is not None
        return self.shifts

    def shape(self, *inputs: Shape) -> Shape:
        return self.of_floats.shape(*inputs)

    def scaled(self, scale: Tensor, shift: Tensor) -> ShiftedConv:
        shifts = self._shifts.double() * scale.view(-1, 1, 1, 1)
        return replace(self, shifts=shifts, bias=self._shifted_bias(scale, shift))

    def halo(self, x: Any, y: Any) -> Halo:
        return Halo()  # the integers have one, in a tensor of their own

    def lower(self, node: Node, tasks: Tasks) -> None:
        given = tasks.aligned(node.inputs[0], tuple(range(node.inputs[0].shape[0])))
        channels = tuple(range(self.weight.shape[0]))
        form, bits = self._integers(len(given.channels)), _bits(self.form)
        numbers = tasks.made(
            (node.inputs[0], form, self._reach(node)), lambda: self._numbers(node, given, form, tasks)
        )
        y, work = tasks.settle(node, channels), slots_of(node)
        epilogue, operands, over = tasks.epilogue(work, channels)

        def problem() -> Problem:
            return kernels.IntegerConv(
                numbers.view(),
                y.view(),
                given.view(),
                form,
                bits,
                self.kernel_size,
                self.stride,
                (self.padding[0], self.padding[2]),
                self.dilation,
                epilogue(self.bias is not None),
            )

        parameters = {
            "weight": self.weight,
            "shifts": self.shifts,
            "bias": self.bias,
            **work.numbers(channels),
        }
        tasks.add(node.op.word, (numbers, given, *operands), y, problem, parameters, node, over)

    def _integers(self, channels: int) -> kernels.Integers:
        form = self.form
        blocks = kernels.Blocks(
            channels, min(form.block, channels // self.groups), form.mantissa, form.exponent, self.groups
        )
        return kernels.Integers(blocks, 2 ** (_bits(form) - 1))

    def _reach(self, node: Node) -> Halo:
        return Windows.halo(self, node.inputs[0], node.output)

    def _numbers(self, node: Node, given: Place, form: kernels.Integers, tasks: Tasks) -> Place:
        """Append the task that makes integers of the input."""
        slab = Slab(given.slab.height, given.slab.width, form.floats, self._reach(node))
        place = Place(slab, tuple(range(form.floats)))
        tasks.add(
            "to integers",
            (given,),
            place,
            lambda: kernels.ToIntegers(given.view(), place.view(), form),
            {},
            node,
        )
        return place


def _bits(form: ShiftedForm) -> int:
    """Return how many bits integers take: one more where they were not clamped, for 2^(b-1)."""
    return form.bits + (not form.clamp)


@recognises("regroup::shifted_conv")
def _shifted_conv(call: Call) -> Op | Found | None:
    if len(call.out) != 3 or not known(call.integers, call.shifts, call.bias):
        return None
    form = ShiftedForm.of(call.form)
    (top, left), weight = call.padding, call.integers.float()
    op = ShiftedConv(
        weight,
        call.bias,
        tuple(call.stride),
        (top, top, left, left),
        tuple(call.dilation),
        call.shifts,
        form,
        call.groups,
    )
    if _as_integers(op):
        return op
    rounding = BlockFloatingPoint(form.block, call.form[3], form.exponent, call.groups)
    return Found(rounding, None, [op.of_floats])


def _as_integers(op: ShiftedConv) -> bool:
    """Tell whether integers are what they say, fit their code, and gain by it; on every machine alike."""
    form, bits, depth = op.form, _bits(op.form), op.weight.shape[1]
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    inside = op.weight.numel() and low <= op.weight.min() and op.weight.max() <= high
    block = min(form.block, depth)
    numbers = bits, form.mantissa, block
    return bool(inside) and form.exponent <= 7 and fits(*numbers) and gains(*numbers)
