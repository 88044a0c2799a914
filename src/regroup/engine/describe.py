"""Nodes and kernel problems in words, for people who read `explain()`."""

from __future__ import annotations

from regroup.engine.graph import (
    Activate,
    AdaptivePool,
    Conv,
    DynamicConv,
    Fused,
    Multiply,
    Node,
    Op,
    ScaleShift,
)
from regroup.kernels import problems as kernels
from regroup.kernels.problems import Linear, Problem
from regroup.kernels.problems.dynamic import DynamicConv as DynamicProblem
from regroup.kernels.problems.view import View


def describe_node(node: Node) -> str:
    """Return what a step does, like 'conv + relu'."""
    fused = node.op if isinstance(node.op, Fused) else Fused(node.op)
    return " + ".join(_word(op) for op in (*fused.before, fused.op, *fused.after))


def _word(op: Op) -> str:
    if isinstance(op, Activate):
        return op.kind
    names: dict[type[Op], str] = {
        Conv: "conv",
        DynamicConv: "chosen conv",
        ScaleShift: "norm",
        Multiply: "gate",
        AdaptivePool: "pool",
    }
    return names.get(type(op), type(op).__name__.lower())


def describe_problem(problem: Problem) -> str:
    """Return the shape of a problem, like '64x56x56 -> 128x28x28, 3x3 / 2, 4 groups'."""
    if isinstance(problem, kernels.Chain):
        return " -> ".join(map(_size, (problem.x, *(link.y for link in problem.links))))
    text = f"{_size(problem.x)} -> {_size(problem.y)}"
    if isinstance(problem, Linear):
        return f"{problem.in_channels} -> {problem.y.channels}"
    kernel, stride = getattr(problem, "kernel_size", None), getattr(problem, "stride", (1, 1))
    if kernel is not None:
        text += f", {kernel[0]}x{kernel[1]}" + (f" / {stride[0]}" if stride != (1, 1) else "")
    if isinstance(problem, kernels.Conv) and problem.groups > 1:
        text += f", {problem.groups} groups"
    if isinstance(problem, DynamicProblem):
        text += f", {problem.heads} heads of {problem.kept}"
    return text


def _size(view: View) -> str:
    if (view.height, view.width) == (1, 1):
        return str(view.channels)
    return f"{view.channels}x{view.height}x{view.width}"
