"""Fold scale-and-shift (batch normalisation) into the convolution or linear layer before or after it."""

from __future__ import annotations

from dataclasses import replace

import torch

from regroup.engine.graph import Graph, Node
from regroup.engine.operator import Weighted
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.linear import Linear
from regroup.engine.operators.scale_shift import ScaleShift


def fold_scale_shift(graph: Graph) -> bool:
    """Fold into the producer where that has no other reader, else into the reader; join neighbours."""
    changed = False
    producers = graph.producers()
    for node in graph.nodes:
        if isinstance(node.op, ScaleShift):
            producer = producers.get(node.inputs[0])
            if producer is not None and _only_reader(graph, producer, node) and _fold_into(producer, node):
                graph.replace(node.output, producer.output)
                changed = True
            elif _fold_into_readers(graph, node):
                graph.replace(node.output, node.inputs[0])
                changed = True
    if changed:
        graph.remove_dead()
    return changed


def _only_reader(graph: Graph, producer: Node, node: Node) -> bool:
    value = producer.output
    return value not in graph.outputs and not any(value in n.inputs for n in graph.nodes if n is not node)


def _fold_into(producer: Node, node: Node) -> bool:
    """Let `producer` do the scaling and shifting of `node` on its output."""
    op, scale, shift = producer.op, node.op.scale.double(), node.op.shift.double()
    if isinstance(op, ScaleShift):
        producer.op = ScaleShift(op.scale.double() * scale, op.shift.double() * scale + shift)
    elif isinstance(op, Weighted):
        producer.op = op.scaled(scale, shift)
    else:
        return False
    return True


def _fold_into_readers(graph: Graph, node: Node) -> bool:
    """Let every reader of `node` do its work on its input: unpadded convolutions and linear layers can."""
    value = node.output
    readers = [n for n in graph.nodes if value in n.inputs]
    if value in graph.outputs or not readers or not all(_can_absorb(n, node.op) for n in readers):
        return False
    for reader in readers:
        op, scale, shift = reader.op, node.op.scale.double(), node.op.shift.double()
        weight = op.weight.double()
        groups = op.groups if isinstance(op, Conv) else 1
        per_group = weight.unflatten(0, (groups, -1))
        ones = (groups, 1, -1, *[1] * (weight.dim() - 2))
        extra = (per_group * shift.view(ones)).flatten(2).sum(2).flatten()
        weight = (per_group * scale.view(ones)).flatten(0, 1)
        reader.op = replace(op, weight=weight, bias=extra if op.bias is None else op.bias.double() + extra)
    return True


def _can_absorb(reader: Node, op: ScaleShift) -> bool:
    if isinstance(reader.op, Conv):
        return not any(reader.op.padding) or not torch.count_nonzero(op.shift)
    return isinstance(reader.op, Linear)
