"""Leave out what does nothing, before operators are recognised."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from regroup.engine.graph import Graph, Ref, Value
from regroup.engine.recognition import VIEWS, name_of


def join_views(graph: Graph) -> None:
    """Let a change of shape after another one start from the tensor itself: shapes in between may be any."""
    producers = graph.producers()
    for node in graph.nodes:
        before = producers.get(node.inputs[0]) if name_of(node) in VIEWS else None
        if before is not None and name_of(before) in VIEWS and before.inputs[0].batched:
            node.inputs = before.inputs
    graph.remove_dead()


def leave_out_empty(graph: Graph) -> None:
    """Let concatenations pass over parts without numbers, which stand for features that a network has not."""
    for node in graph.nodes:
        if name_of(node) != "cat":
            continue
        parts, *rest = node.op.args
        full = [part for part in parts if not _is_empty(part, node.inputs)]
        if len(full) < len(parts) and any(isinstance(part, Ref) for part in full):
            read = [node.inputs[part.index] for part in full if isinstance(part, Ref)]
            inputs = tuple(dict.fromkeys(read))
            places = {i: Ref(inputs.index(value)) for i, value in enumerate(node.inputs) if value in inputs}
            kept = [places[part.index] if isinstance(part, Ref) else part for part in full]
            node.op, node.inputs = replace(node.op, args=(kept, *rest)), inputs
    graph.remove_dead()


def _is_empty(part: object, inputs: tuple[Value, ...]) -> bool:
    if isinstance(part, Ref):
        return 0 in inputs[part.index].shape
    return isinstance(part, Tensor) and part.numel() == 0
