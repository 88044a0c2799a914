"""Nearest-neighbour doubling and addition in one step (octave convolution, feature pyramids)."""

from __future__ import annotations

from regroup.engine.graph import Graph
from regroup.engine.operators.add import Add
from regroup.engine.operators.resize import Resize


def fuse_resize_and_add(graph: Graph) -> bool:
    """Let an `Add` read its second input at half the size, instead of resizing that first."""
    producers, changed = graph.producers(), False
    for node in graph.nodes:
        if not isinstance(node.op, Add) or node.op.scale != 1:
            continue
        for x, y in (node.inputs, node.inputs[::-1]):
            resize = producers.get(y)
            if resize is None or not isinstance(resize.op, Resize) or resize.op.mode == "bilinear":
                continue
            small = resize.inputs[0]
            exact = resize.op.scale in ((None, None), (2.0, 2.0))
            if exact and small.shape[1] * 2 == y.shape[1] and small.shape[2] * 2 == y.shape[2]:
                node.op, node.inputs, changed = Add(scale=2), (x, small), True
                break
    return changed
