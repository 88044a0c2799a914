"""What one kernel can do besides its own work, and in which order: the slots of its prologue and epilogue.

A convolution or linear layer can afterwards add, activate and multiply by a gate, or activate, multiply by a
gate and add. Elementwise work alone can before that multiply by a gate, scale and shift, activate, and
multiply by a tensor. Written with a letter for each op, these are regular expressions, whose groups are
the slots.

>>> sorted(EPILOGUE.fullmatch("Aa").groupdict(default="").items())[:2]
[('activation', 'a'), ('activation_before', '')]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regroup.engine.graph import Node, Op, Torch, Value

_SUM_FIRST = "(?P<residual>A?)(?P<activation>[ap]?)(?P<gate>G?)"
_SUM_LAST = "(?P<activation_before>[ap]?)(?P<gate_before>G?)(?P<residual_last>A?)"
_SLOTS = f"{_SUM_FIRST}|{_SUM_LAST}"
EPILOGUE = re.compile(_SLOTS)
"""After work that has weights."""

POINTWISE = re.compile(rf"(?P<first_gate>G?)(?P<affine>S?)(?P<first>a?)(?P<factor>F?)(?:{_SLOTS})")
"""Elementwise work: it takes slots itself."""

ACTIVATION = re.compile("(?P<activation>a?)")
"""An activation alone, after pooling."""


@dataclass(frozen=True)
class Slots:
    """Ops by what a kernel calls them; None or "none" where there is nothing to do.

    Attributes:
        first_gate: multiplied by before all else.
        affine: scale and shift (`ScaleShift`), then.
        first: activation, then.
        factor: a tensor multiplied by, then.
        residual: added to the result.
        residual_first: added before the activation.
        residual_scale: how much larger the result is than what is added (`Add.scale`).
        activation: of the result.
        slope: of what is not above zero of the result (PReLU), instead of an activation.
        gate: multiplied by after the activation.
    """

    first_gate: Value | None = None
    affine: Any = None
    first: str = "none"
    factor: Value | None = None
    residual: Value | None = None
    residual_first: bool = True
    residual_scale: int = 1
    activation: str = "none"
    slope: Tensor | None = None
    gate: Value | None = None

    def numbers(self, channels: Sequence[int]) -> dict[str, Tensor]:
        """Return the numbers per channel that the kernel needs, in the order of `channels`."""
        rows = list(channels)
        affine, slope = self.affine, self.slope
        found = {} if affine is None else {"in_scale": affine.scale[rows], "in_shift": affine.shift[rows]}
        return found if slope is None else found | {"slope": slope[rows]}


def slots(op: Any, after: Sequence[Any], inputs: Sequence[Value], output: Value) -> Slots | None:
    """Return the slots for doing `op` and then `after` in one step, or None if one step cannot.

    Args:
        op: the step's main work; elementwise ops take slots themselves.
        after: what follows.
        inputs: as in `Fused`: the second operands of sums and products are the last.
        output: what comes out.
    """
    pattern = None if isinstance(op, Torch) else op.slots
    ops = (op, *after) if pattern is POINTWISE else tuple(after)
    if pattern is None:
        return None if ops else Slots()
    operands = _operands(ops, inputs)
    letters = [one.letter(operand, output) for one, operand in zip(ops, operands, strict=True)]
    match = pattern.fullmatch("".join(letters))
    if match is None:
        return None
    at = {name: match.start(name) for name, text in match.groupdict().items() if text}
    return _fill(at, ops, operands)


def slots_of(node: Node) -> Slots:
    """Return the slots of a step."""
    found = slots(node.op.main, node.op.after, node.inputs, node.output)
    assert found is not None
    return found


def before_slots(before: Sequence[Any], x: Value) -> Slots:
    """Return the slots of what a step does to its input: scale and shift, and activate."""
    if not before:
        return Slots()
    found = slots(before[0], before[1:], (x,), x)
    assert found is not None
    return found


def _operands(ops: Sequence[Op], inputs: Sequence[Value]) -> list[Value | None]:
    left = list(inputs[len(inputs) - sum(op.arity == 2 for op in ops) :])
    return [left.pop(0) if op.arity == 2 else None for op in ops]


def _fill(at: dict[str, int], ops: Sequence[Any], operands: Sequence[Value | None]) -> Slots:
    def operand(*names: str) -> Value | None:
        return next((operands[at[name]] for name in names if name in at), None)

    acts = [ops[at[name]] for name in ("activation", "activation_before") if name in at]
    sums = [ops[at[name]].scale for name in ("residual", "residual_last") if name in at]
    return Slots(
        first_gate=operand("first_gate"),
        affine=ops[at["affine"]] if "affine" in at else None,
        first=ops[at["first"]].kind if "first" in at else "none",
        factor=operand("factor"),
        residual=operand("residual", "residual_last"),
        residual_first="residual_last" not in at,
        residual_scale=sums[0] if sums else 1,
        activation=acts[0].kind if acts and acts[0].slope is None else "none",
        slope=acts[0].slope if acts else None,
        gate=operand("gate", "gate_before"),
    )
