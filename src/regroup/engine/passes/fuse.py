"""Fuse elementwise work into the step that makes its input, and pre-activation into the one that reads it.

`slots.py` says what a step can do besides its own work.
"""

from __future__ import annotations

from typing import Any

from regroup.engine.graph import Fused, Graph, Node, Op
from regroup.engine.operator import Operator
from regroup.engine.operators.activation import Activate
from regroup.engine.operators.add import Add
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.linear import Linear
from regroup.engine.operators.multiply import Multiply
from regroup.engine.operators.scale_shift import ScaleShift
from regroup.engine.operators.select import Select
from regroup.engine.placing.slots import slots


def fuse_after(graph: Graph) -> bool:
    """Append activations, sums and gates to the steps before them."""
    changed = False
    for node in list(graph.nodes):
        if isinstance(node.op, (Activate, Add, Multiply, ScaleShift)):
            changed |= any(_append(graph, node, chosen) for chosen in _candidates(graph, node))
    return changed


def _candidates(graph: Graph, node: Node) -> list[int]:
    """Inputs whose producers might absorb `node`, those with weights and the latest first."""
    if not isinstance(node.op, Add) or node.op.scale != 1:
        return [0]
    order = {v: (_has_weights(n.op), i) for i, n in enumerate(graph.nodes) for v in n.outputs}
    return sorted((0, 1), key=lambda i: order.get(node.inputs[i], (False, -1)), reverse=True)


def _append(graph: Graph, node: Node, chosen: int) -> bool:
    value = node.inputs[chosen]
    producer = graph.producers().get(value)
    if producer is None or value in graph.outputs or node.inputs.count(value) > 1:
        return False
    if any(value in n.inputs for n in graph.nodes if n is not node):
        return False
    step = producer.op
    after = (*step.after, node.op)
    inputs = (*producer.inputs, *(v for i, v in enumerate(node.inputs) if i != chosen))
    if slots(step.main, after, inputs, node.output) is None:
        return False
    node.op, node.inputs = Fused(step.main, step.before, after), inputs
    graph.nodes.remove(producer)
    return True


def _has_weights(op: Op) -> bool:
    return isinstance(op.main, Operator) and op.main.has_weights


def fuse_before(graph: Graph) -> bool:
    """Let an unpadded 1x1 convolution scale, shift and activate what it reads (pre-activation).

    A channel order in between moves to the other side.
    """
    changed = False
    producers = graph.producers()
    for node in list(graph.nodes):
        step = node.op
        before = producers.get(node.inputs[0]) if node.inputs else None
        if before is None or step.before or not _reads_once(step.main) or not _is_own(graph, before):
            continue
        order = before if isinstance(before.op, Select) else None
        before = producers.get(before.inputs[0]) if order is not None else before
        if before is None or not _is_preactivation(before.op) or not _is_own(graph, before):
            continue
        ops, source = _ops(before.op), before.inputs[0]
        if order is not None:
            ops = tuple(op.of(order.op.channels) for op in ops)
            source = source.like(node.inputs[0].shape)
            graph.nodes.append(Node(order.op, (before.inputs[0],), (source,)))
        node.op = Fused(step.main, ops, step.after)
        node.inputs = (source, *node.inputs[1:])
        changed = True
    if changed:
        graph.sort()
    return changed


def _is_own(graph: Graph, node: Node) -> bool:
    """Tell whether one node alone reads what `node` makes."""
    value = node.output
    return value not in graph.outputs and sum(value in n.inputs for n in graph.nodes) == 1


def _reads_once(op: Any) -> bool:
    return isinstance(op, Linear) or (
        isinstance(op, Conv) and op.kernel_size == (1, 1) and not any(op.padding)
    )


def _is_preactivation(op: Op) -> bool:
    ops = _ops(op)
    plain = all(o.slope is None for o in ops if isinstance(o, Activate))
    return plain and [type(o) for o in ops] in ([ScaleShift], [Activate], [ScaleShift, Activate])


def _ops(op: Op) -> tuple[Any, ...]:
    return () if op.before else (op.main, *op.after)
