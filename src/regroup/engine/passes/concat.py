"""Move what is done to a concatenation into the steps that make its parts (MixConv)."""

from __future__ import annotations

from regroup.engine.graph import Graph, Node, Value
from regroup.engine.operators.activation import Activate
from regroup.engine.operators.add import Add
from regroup.engine.operators.concat import Concat
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.pool import Pool
from regroup.engine.operators.scale_shift import ScaleShift
from regroup.engine.operators.select import Select


def push_above_concat(graph: Graph) -> bool:
    """Scale and shift, activate, or add to each part instead of to the whole.

    Only where every part is the result of a step that can absorb the work and that nothing else reads.
    """
    changed = False
    producers, consumers = graph.producers(), graph.consumers()
    for node in list(graph.nodes):
        chosen = _concat_input(graph, node, producers, consumers)
        if chosen is not None:
            _push(graph, node, producers[node.inputs[chosen]], chosen)
            producers, consumers = graph.producers(), graph.consumers()
            changed = True
    if changed:
        graph.sort()
    return changed


def _concat_input(
    graph: Graph, node: Node, producers: dict[Value, Node], consumers: dict[Value, list[Node]]
) -> int | None:
    """Return which input of `node` is a concatenation above which its work can move."""
    if not isinstance(node.op, (ScaleShift, Activate, Add)) or (
        isinstance(node.op, Add) and node.op.scale != 1
    ):
        return None
    absorbers = (Conv, Pool) if isinstance(node.op, Activate) else (Conv, ScaleShift)
    absorbers = (Conv,) if isinstance(node.op, Activate) and node.op.slope is not None else absorbers
    for chosen, value in enumerate(node.inputs):
        whole = producers.get(value)
        if whole is None or not isinstance(whole.op, Concat) or consumers[value] != [node]:
            continue
        if value in graph.outputs or node.inputs.count(value) > 1:
            continue
        if all(
            part in producers
            and isinstance(producers[part].op, absorbers)
            and consumers[part] == [whole]
            and part not in graph.outputs
            and whole.inputs.count(part) == 1
            for part in whole.inputs
        ):
            return chosen
    return None


def _push(graph: Graph, node: Node, whole: Node, chosen: int) -> None:
    others = [value for i, value in enumerate(node.inputs) if i != chosen]
    start, parts = 0, []
    for part in whole.inputs:
        channels = range(start, start + part.shape[0])
        slices = [other.like(part.shape) for other in others]
        for other, piece in zip(others, slices, strict=True):
            graph.nodes.append(Node(Select(tuple(channels)), (other,), (piece,)))
        parts.append(part.like(part.shape))
        graph.nodes.append(Node(node.op.of(channels), (part, *slices), (parts[-1],)))
        start = channels.stop
    graph.nodes.remove(node)
    graph.nodes.append(Node(Concat(), tuple(parts), node.outputs))
