"""Split a graph into parts that run natively and parts that PyTorch runs, as few as the data flow allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

from regroup.engine.graph import Graph, Node


@dataclass(frozen=True, eq=False)
class Segment:
    """Nodes that run together.

    Attributes:
        graph: their own graph; its inputs and outputs are values of the whole.
        native: whether the engine runs it.
    """

    graph: Graph
    native: bool


def partition(graph: Graph, is_native: Callable[[Node], bool]) -> list[Segment]:
    """Return segments in an order in which they can run; native ones hold equally many images throughout."""
    kinds = {node: node.output.per if is_native(node) else 0 for node in graph.nodes}
    turns = cycle([*sorted({1, *kinds.values()} - {0}), 0])
    ready, waiting = set(graph.inputs), list(graph.nodes)
    batches: list[tuple[int, list[Node]]] = []
    while waiting:
        kind, taken, left = next(turns), [], []
        for node in waiting:
            runs = kinds[node] == kind and all(value in ready for value in node.inputs)
            (taken if runs else left).append(node)
            if runs:
                ready.update(node.outputs)
        if taken:
            batches.append((kind, taken))
        waiting = left
    return [Segment(_subgraph(graph, nodes), kind > 0) for kind, nodes in batches]


def _subgraph(graph: Graph, nodes: list[Node]) -> Graph:
    made = {value for node in nodes for value in node.outputs}
    inside = set(nodes)
    read_elsewhere = {v for node in graph.nodes if node not in inside for v in node.inputs} | set(
        graph.outputs
    )
    inputs = dict.fromkeys(value for node in nodes for value in node.inputs if value not in made)
    outputs = [value for node in nodes for value in node.outputs if value in read_elsewhere]
    return Graph(list(inputs), outputs, nodes)
