"""What one kernel can do besides its own work, and in which order: the slots of its prologue and epilogue.

A convolution or linear layer can afterwards add, activate and multiply by a gate, or activate, multiply by a
gate and add. Elementwise work alone can before that multiply by a gate, scale and shift, activate, and
multiply by a tensor. Written with a letter for each op, these are regular expressions, whose groups are
the slots.

>>> sorted(_EPILOGUE.fullmatch("Aa").groupdict(default="").items())[:2]
[('activation', 'a'), ('activation_before', '')]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regroup.engine.graph import (
    Activate,
    Add,
    Conv,
    DynamicConv,
    Fused,
    Linear,
    Multiply,
    Op,
    Pool,
    ScaleShift,
    Value,
)

_SUM_FIRST = "(?P<residual>A?)(?P<activation>[ap]?)(?P<gate>G?)"
_SUM_LAST = "(?P<activation_before>[ap]?)(?P<gate_before>G?)(?P<residual_last>A?)"
_SLOTS = f"{_SUM_FIRST}|{_SUM_LAST}"
_EPILOGUE = re.compile(_SLOTS)
_POINTWISE = re.compile(rf"(?P<first_gate>G?)(?P<affine>S?)(?P<first>a?)(?P<factor>F?)(?:{_SLOTS})")
_POOL = re.compile("(?P<activation>a?)")


@dataclass(frozen=True)
class Slots:
    """Ops by what a kernel calls them; None or "none" where there is nothing to do.

    Attributes:
        first_gate: multiplied by before all else.
        affine: scale and shift, then.
        first: activation, then.
        factor: a tensor multiplied by, then.
        residual: added to the result.
        residual_first: added before the activation.
        residual_scale: see `graph.Add`.
        activation: of the result.
        slope: of what is not above zero of the result (PReLU), instead of an activation.
        gate: multiplied by after the activation.
    """

    first_gate: Value | None = None
    affine: ScaleShift | None = None
    first: str = "none"
    factor: Value | None = None
    residual: Value | None = None
    residual_first: bool = True
    residual_scale: int = 1
    activation: str = "none"
    slope: Tensor | None = None
    gate: Value | None = None


def slots(op: Op, after: Sequence[Op], inputs: Sequence[Value], output: Value) -> Slots | None:
    """Return the slots for doing `op` and then `after` in one step, or None if one step cannot.

    Args:
        op: the step's main work; elementwise ops take slots themselves.
        after: what follows.
        inputs: as in `Fused`: the second operands of sums and products are the last.
        output: what comes out.
    """
    if isinstance(op, (Activate, Add, Multiply, ScaleShift)):
        pattern, ops = _POINTWISE, (op, *after)
    else:
        pattern, ops = (_POOL if isinstance(op, Pool) else _EPILOGUE), tuple(after)
        if ops and not isinstance(op, (Conv, DynamicConv, Linear, Pool)):
            return None
    operands, letters = _operands(ops, inputs), ""
    for one, operand in zip(ops, operands, strict=True):
        letters += _letter(one, operand, output)
    match = pattern.fullmatch(letters)
    if match is None:
        return None
    at = {name: match.start(name) for name, text in match.groupdict().items() if text}
    return _fill(at, ops, operands)


def slots_of(fused: Fused, inputs: Sequence[Value], output: Value) -> Slots:
    """Return the slots of a step that has been fused."""
    found = slots(fused.op, fused.after, inputs, output)
    assert found is not None
    return found


def _operands(ops: Sequence[Op], inputs: Sequence[Value]) -> list[Value | None]:
    left = list(inputs[len(inputs) - sum(isinstance(op, (Add, Multiply)) for op in ops) :])
    return [left.pop(0) if isinstance(op, (Add, Multiply)) else None for op in ops]


def _letter(op: Op, operand: Value | None, output: Value) -> str:
    if isinstance(op, Multiply):
        assert operand is not None
        return "F" if operand.shape == output.shape else "G"
    if isinstance(op, Activate):
        return "a" if op.slope is None else "p"
    return "A" if isinstance(op, Add) else "S"


def _fill(at: dict[str, int], ops: Sequence[Any], operands: Sequence[Value | None]) -> Slots:
    def operand(*names: str) -> Value | None:
        return next((operands[at[name]] for name in names if name in at), None)

    act = next(
        (ops[at[name]] for name in ("activation", "activation_before") if name in at), Activate("none")
    )
    sums = [ops[at[name]].scale for name in ("residual", "residual_last") if name in at]
    return Slots(
        first_gate=operand("first_gate"),
        affine=ops[at["affine"]] if "affine" in at else None,
        first=ops[at["first"]].kind if "first" in at else "none",
        factor=operand("factor"),
        residual=operand("residual", "residual_last"),
        residual_first="residual_last" not in at,
        residual_scale=sums[0] if sums else 1,
        activation=act.kind if act.slope is None else "none",
        slope=act.slope,
        gate=operand("gate", "gate_before"),
    )
