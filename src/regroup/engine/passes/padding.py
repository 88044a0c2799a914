"""Fold explicit zero padding into the convolutions that read it."""

from __future__ import annotations

from dataclasses import replace

from regroup.engine.graph import Graph
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.pad import Pad


def fold_padding(graph: Graph) -> bool:
    """Let a convolution read the unpadded image and pad by itself, unevenly if need be."""
    producers, changed = graph.producers(), False
    for node in graph.nodes:
        pad = producers.get(node.inputs[0]) if isinstance(node.op, Conv) else None
        if pad is not None and isinstance(pad.op, Pad):
            top, bottom, left, right = (a + b for a, b in zip(pad.op.padding, node.op.padding, strict=True))
            node.op = replace(node.op, padding=(top, bottom, left, right))
            node.inputs = pad.inputs
            changed = True
    return changed
