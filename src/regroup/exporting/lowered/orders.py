"""Channel orders that are folded into the weights beside them, for readers that have to read in order.

The engine has no need of this: its kernels are told in which order to read. A dense convolution takes up any
order of its inputs, and gives its outputs in any; a grouped one does within its groups, and lets whole groups
change places; work on each channel alone, depthwise convolutions too, lets an order pass. What is left is
what the network cannot do without: a shuffle between two grouped convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regroup.engine.graph import Graph, Node, Value
from regroup.engine.operators.activation import Activate
from regroup.engine.operators.adaptive_pool import AdaptivePool
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.linear import Linear
from regroup.engine.operators.pad import Pad
from regroup.engine.operators.pool import Pool
from regroup.engine.operators.resize import Resize
from regroup.engine.operators.scale_shift import ScaleShift
from regroup.engine.operators.select import Select

Order = tuple[int, ...]


def sink_below_channelwise(graph: Graph) -> bool:
    """Let orders pass what works on each channel alone."""
    changed = False
    for node in list(graph.nodes):
        order = _order_before(graph, node)
        if order is None or not _is_permutation(order.op.channels, order.inputs[0].shape[0]):
            continue
        op = _on_source(node.op, order.op.channels)
        if op is None:
            continue
        result = node.output.like(op.shape(order.inputs[0].shape))
        graph.nodes.append(Node(order.op, (result,), node.outputs))
        node.op, node.inputs, node.outputs = op, order.inputs, (result,)
        changed = True
        graph.sort()
    return changed


def fold_into_readers(graph: Graph) -> bool:
    """Sort the weights of convolutions and linear layers by the channels as they were before an order."""
    changed = False
    for node in list(graph.nodes):
        order = _order_before(graph, node)
        if order is None or not isinstance(node.op, (Conv, Linear)):
            continue
        channels, count = order.op.channels, order.inputs[0].shape[0]
        groups = node.op.groups if isinstance(node.op, Conv) else 1
        found = _by_source(channels, count, groups)
        if found is None:
            continue
        places, moved = found
        each = node.op.weight.shape[0] // groups
        outputs = [group * each + i for group in places for i in range(each)]  # of the op as it was
        weight = _weights_by_source(node.op.weight[outputs], moved, count // groups)
        bias = None if node.op.bias is None else node.op.bias[outputs]
        node.op = replace(node.op, weight=weight, bias=bias)
        node.inputs = order.inputs
        if outputs != list(range(len(outputs))):
            result = node.output.like(node.output.shape)
            graph.nodes.append(Node(Select(_inverse(outputs)), (result,), node.outputs))
            node.outputs = (result,)
            graph.sort()
        changed = True
    if changed:
        graph.remove_dead()
    return changed


def fold_into_writers(graph: Graph) -> bool:
    """Cut a convolution whose outputs are read in parts into one for each, in its reader's order."""
    changed = False
    for node in list(graph.nodes):
        if not isinstance(node.op, Conv) or node not in graph.nodes:
            continue
        between, readers = _readers(graph, node)
        orders = [reader.op.channels for reader in readers]
        if not orders or not _can_give(node.op, orders):
            continue
        for reader, channels in zip(readers, orders, strict=True):
            rows = list(channels)
            bias = None if node.op.bias is None else node.op.bias[rows]
            ops = [replace(node.op, weight=node.op.weight[rows], bias=bias)]
            ops += [one.op.of(channels) for one in between]
            graph.nodes.remove(reader)
            _chain(graph, node.inputs, ops, reader)
        for one in (node, *between):
            graph.nodes.remove(one)
        graph.sort()
        changed = True
    return changed


def _chain(graph: Graph, inputs: tuple[Value, ...], ops: Sequence, reader: Node) -> None:
    """Append nodes that lead to what `reader` has made."""
    for i, op in enumerate(ops):
        last = i == len(ops) - 1
        shape = op.shape(*(value.shape for value in inputs))
        outputs = reader.outputs if last else (reader.output.like(shape),)
        graph.nodes.append(Node(op, inputs, outputs))
        inputs = outputs


def _readers(graph: Graph, conv: Node) -> tuple[list[Node], list[Node]]:
    """Return the elementwise nodes that follow a convolution, and the orders after them; or nothing."""
    consumers, between, value = graph.consumers(), [], conv.output
    while value not in graph.outputs:
        readers = consumers[value]
        if readers and all(isinstance(reader.op, Select) for reader in readers):
            return between, readers
        if len(readers) != 1 or not isinstance(readers[0].op, (Activate, ScaleShift)):
            break
        between.append(readers[0])
        value = readers[0].output
    return [], []


def _can_give(conv: Conv, orders: Sequence[Order]) -> bool:
    """Tell whether a convolution's outputs can be so, with no output computed twice."""
    outputs, each = conv.weight.shape[0], conv.weight.shape[0] // conv.groups
    read = [channel for order in orders for channel in order]
    if len(set(read)) != len(read):
        return False
    if conv.groups == 1:
        return True
    within = all(channel // each == i // each for i, channel in enumerate(orders[0]))
    return len(orders) == 1 and len(read) == outputs and within


def _order_before(graph: Graph, node: Node) -> Node | None:
    """Return the order that a node's only input is the result of."""
    if len(node.inputs) != 1:
        return None
    before = graph.producers().get(node.inputs[0])
    return before if before is not None and isinstance(before.op, Select) else None


def _on_source(op: Any, channels: Order) -> Any:
    """Return an op that works on each channel alone as it is on the channels before an order; else None."""
    if isinstance(op, (Activate, ScaleShift)):
        return op.of(_inverse(channels))
    if isinstance(op, (Pool, AdaptivePool, Pad, Resize)):
        return op
    if isinstance(op, Conv) and op.groups == op.weight.shape[0] == len(channels) > 1:
        rows = list(_inverse(channels))
        return replace(op, weight=op.weight[rows], bias=None if op.bias is None else op.bias[rows])
    return None


def _by_source(channels: Order, count: int, groups: int) -> tuple[list[int], list[list[int]]] | None:
    """Return how groups can read the channels as they were before an order.

    That is which group reads each part of them, and for each part its channels' places in that group; None
    where a group reads from several parts, or where that would multiply more.
    """
    if count > len(channels) or len(channels) % groups or count % groups:
        return None
    size, part = len(channels) // groups, count // groups
    places: dict[int, int] = {}
    moved: dict[int, list[int]] = {}
    for group in range(groups):
        mine = channels[group * size : (group + 1) * size]
        parts = {channel // part for channel in mine}
        if len(parts) != 1 or (number := parts.pop()) in places:
            return None
        places[number], moved[number] = group, [channel - number * part for channel in mine]
    if groups > 1 and size != part:
        return None
    return [places[i] for i in range(groups)], [moved[i] for i in range(groups)]


def _weights_by_source(weight: Tensor, moved: Sequence[Sequence[int]], count: int) -> Tensor:
    """Return weights by the `count` channels of each group before an order; one read twice has the sum."""
    parts = []
    for mine, rows in zip(moved, weight.unflatten(0, (len(moved), -1)), strict=True):
        found = torch.zeros(rows.shape[0], count, *rows.shape[2:], dtype=torch.float64)
        parts.append(found.index_add(1, torch.tensor(mine), rows.double()))
    return torch.cat(parts)


def _is_permutation(channels: Order, count: int) -> bool:
    return sorted(channels) == list(range(count))


def _inverse(channels: Sequence[int]) -> Order:
    found = [0] * len(channels)
    for i, channel in enumerate(channels):
        found[channel] = i
    return tuple(found)
