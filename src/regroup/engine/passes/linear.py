"""A 1x1 convolution of a 1x1 image is a linear layer: the two of every squeeze-and-excitation."""

from __future__ import annotations

from regroup.engine.graph import Graph
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.linear import Linear


def vectors_to_linear(graph: Graph) -> bool:
    """Turn dense 1x1 convolutions of 1x1 images into `Linear`."""
    changed = False
    for node in graph.nodes:
        op = node.op
        if (
            isinstance(op, Conv)
            and op.groups == 1
            and node.inputs[0].shape[1:] == node.output.shape[1:] == (1, 1)
            and op.kernel_size == (1, 1)
        ):
            node.op = Linear(op.weight.flatten(1), op.bias)
            changed = True
    return changed
