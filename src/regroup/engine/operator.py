"""What native code knows of an op, and its three families. Each operator is a file of `operators/`.

Such a file says everything about its operator: what it means (`evaluate`), its shapes (`shape`), its word in
`explain()`, how PyTorch calls it (`recognition.recognises`), and which kernel problems do it (`lower`).
Adding the file is adding the operator; `tests/engine/test_operators.py` sweeps whatever is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from regroup.engine.graph import Node, Op, Shape, Value
from regroup.engine.placing.places import NO_HALO, Place
from regroup.engine.placing.slots import EPILOGUE, POINTWISE, slots_of
from regroup.engine.placing.tasks import Tasks, view_of
from regroup.kernels import problems as kernels
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Problem, Prologue
from regroup.kernels.problems.view import Halo


@dataclass(frozen=True, eq=False)
class Operator(Op):
    """An op that native code can do: as a step of kernels, or as no work at all (`Alias`).

    Attributes:
        slots: which ops its kernel can do besides, one letter each; None is none (`placing/slots.py`).
    """

    slots: ClassVar[re.Pattern[str] | None] = None
    is_alias: ClassVar[bool] = False

    def lower(self, node: Node, tasks: Tasks) -> None:
        """Append the tasks that do `node`, whose main work this is."""
        raise NotImplementedError(type(self).__name__)

    # ---- what the layout asks -------------------------------------------------------------------

    def halo(self, x: Value, y: Value) -> Halo:
        """Return the zeros that its kernel reads around its first input."""
        return NO_HALO

    def reads_planar(self, x: Value) -> bool:
        """Tell whether its kernel reads an image in PyTorch's layout as well as in the engine's."""
        return False

    def wishes(self, channels: Sequence[int], target: Target) -> dict[int, tuple[int, ...]]:
        """Return by what the channels that it reads had best be sorted in memory; {} if it does not care."""
        return {}

    # ---- what fusion asks -----------------------------------------------------------------------

    @property
    def has_weights(self) -> bool:
        """It multiplies by matrices of weights: elementwise work is fused into it first of all."""
        return False

    def letter(self, operand: Value | None, output: Value) -> str:
        """Return the letter of elementwise work, by which `placing/slots.py` finds its slot."""
        raise NotImplementedError(type(self).__name__)

    def of(self, channels: Sequence[int]) -> Any:
        """Return what elementwise work does to some channels, in another order."""
        return self

    @property
    def link(self) -> str:
        """What it is within a chain of steps (`placing/chains.py`)."""
        return "other"


@dataclass(frozen=True, eq=False)
class Alias(Operator):
    """An operator that is no work: it only gives what is there another name, or another place beside others.

    Attributes:
        joins: its inputs have to lie beside one another.
    """

    is_alias = True
    joins: ClassVar[bool] = False

    def place(self, node: Node, places: Sequence[Place]) -> Place:
        """Return where the result of `node` lies, given where its inputs do."""
        raise NotImplementedError(type(self).__name__)

    def makes_vector(self, x: Shape) -> bool:
        """Tell whether it makes a vector of an image of several pixels: its channels are others then."""
        return False

    def moved(self, channels: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the channels of its only input in the order of its own; None if it is no such order."""
        return None


@dataclass(frozen=True, eq=False)
class Weighted(Operator):
    """Sums of products with constants; weights and biases are by output first."""

    weight: Tensor
    bias: Tensor | None = None

    slots = EPILOGUE
    has_weights = True

    def scaled(self, scale: Tensor, shift: Tensor) -> Weighted:
        """Return what also scales and shifts its outputs, by a number for each in float64."""
        weight = self.weight.double() * scale.view(-1, *[1] * (self.weight.dim() - 1))
        return replace(self, weight=weight, bias=self._shifted_bias(scale, shift))

    def _shifted_bias(self, scale: Tensor, shift: Tensor) -> Tensor:
        return shift if self.bias is None else self.bias.double() * scale + shift


@dataclass(frozen=True, eq=False)
class Elementwise(Operator):
    """Work on each number alone, by numbers per channel or by those of a second tensor."""

    slots = POINTWISE

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def lower(self, node: Node, tasks: Tasks) -> None:
        x = tasks.place(node.inputs[0])
        channels = x.physical if x.is_one_run else tuple(range(len(x.channels)))
        order = None if x.is_one_run else x.order
        y = tasks.settle(node, channels)
        work = slots_of(node)
        first_gate, factor = (tasks.operand(v, channels) for v in (work.first_gate, work.factor))
        epilogue, operands, alike = tasks.epilogue(work, channels)

        def problem() -> Problem:
            return kernels.Pointwise(
                x.view(),
                y.view(),
                Prologue(work.affine is not None, work.first, view_of(first_gate)),
                epilogue(False),
                order=order,
                factor=view_of(factor),
            )

        read = [p for p in (x, first_gate, factor, *operands) if p is not None]
        alike += [p for p in (x if order is None else None, factor) if p is not None]
        tasks.add(node.op.word, read, y, problem, work.numbers(channels), node, alike)
