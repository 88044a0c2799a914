"""Bring channel orders together and move them downwards, out of the way of fusion.

What is left of them is free: a reader is told in which order to read.
"""

from __future__ import annotations

from regroup.engine.graph import Graph, Node, Value
from regroup.engine.operators.activation import Activate
from regroup.engine.operators.add import Add
from regroup.engine.operators.concat import Concat
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.dynamic_convolution import DynamicConv
from regroup.engine.operators.scale_shift import ScaleShift
from regroup.engine.operators.select import Select


def simplify_channel_orders(graph: Graph) -> bool:
    """Join consecutive orders, drop those that change nothing, sink the others below elementwise work."""
    changed = False
    producers = graph.producers()
    for node in list(graph.nodes):
        if isinstance(node.op, Select):
            done = _join(graph, node, producers)
        elif isinstance(node.op, (ScaleShift, Activate)):
            done = _sink(graph, node, producers)
        else:
            done = isinstance(node.op, Add) and node.op.scale == 1 and _sink_below_add(graph, node, producers)
        if done:
            changed, producers = True, graph.producers()
    if changed:
        graph.sort()
        graph.remove_dead()
    return changed


def _join(graph: Graph, node: Node, producers: dict[Value, Node]) -> bool:
    source = node.inputs[0]
    if node.op.channels == tuple(range(source.shape[0])):
        if node.output in graph.outputs and source in graph.inputs:
            return False
        graph.replace(node.output, source)
        return True
    before = producers.get(source)
    if before is None:
        return False
    if isinstance(before.op, Select):
        node.op = Select(tuple(before.op.channels[c] for c in node.op.channels))
        node.inputs = before.inputs
        return True
    return isinstance(before.op, Concat) and _select_one_part(node, before)


def _select_one_part(node: Node, concat: Node) -> bool:
    """Read from the one part of a concatenation that all the selected channels come from."""
    start = 0
    for part in concat.inputs:
        stop = start + part.shape[0]
        if all(start <= c < stop for c in node.op.channels):
            node.op = Select(tuple(c - start for c in node.op.channels))
            node.inputs = (part,)
            return True
        start = stop
    return False


def _sink(graph: Graph, node: Node, producers: dict[Value, Node]) -> bool:
    order = producers.get(node.inputs[0])
    if order is None or not isinstance(order.op, Select) or not _is_permutation(order):
        return False
    result = node.output.like(order.inputs[0].shape)
    graph.nodes.append(Node(order.op, (result,), node.outputs))
    node.op = node.op.of(_inverse(order.op.channels))
    node.inputs, node.outputs = order.inputs, (result,)
    return True


def _sink_below_add(graph: Graph, node: Node, producers: dict[Value, Node]) -> bool:
    """`Select(conv) + x` -> `Select(conv + Select^-1(x))`, so that the sum can be fused into the convolution.

    Two convolutions: the later one; a sum is fused into that.
    """
    position = {value: i for i, n in enumerate(graph.nodes) for value in n.outputs}
    found = [
        (position[conv.output], i) for i, v in enumerate(node.inputs) if (conv := _conv_behind(v, producers))
    ]
    if not found or (len(found) == 2 and found[0][0] == found[1][0]):
        return False  # x + shuffle(x): whichever side the order is taken from, the other gets one
    _, chosen = max(found)
    order = producers[node.inputs[chosen]]
    if not isinstance(order.op, Select) or not _is_permutation(order):
        return False
    other = node.inputs[1 - chosen]
    moved = other.like(other.shape)
    result = node.output.like(node.output.shape)
    graph.nodes.append(Node(Select(_inverse(order.op.channels)), (other,), (moved,)))
    graph.nodes.append(Node(order.op, (result,), node.outputs))
    node.inputs, node.outputs = (order.inputs[0], moved), (result,)
    return True


def _conv_behind(value: Value, producers: dict[Value, Node]) -> Node | None:
    node = producers.get(value)
    while node is not None and isinstance(node.op, (Select, ScaleShift, Activate)):
        node = producers.get(node.inputs[0])
    return node if node is not None and isinstance(node.op, (Conv, DynamicConv)) else None


def _is_permutation(order: Node) -> bool:
    return sorted(order.op.channels) == list(range(order.inputs[0].shape[0]))


def _inverse(channels: tuple[int, ...]) -> tuple[int, ...]:
    result = [0] * len(channels)
    for i, channel in enumerate(channels):
        result[channel] = i
    return tuple(result)
