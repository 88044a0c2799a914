"""Images of one channel, row or column beside whole ones: spread to all of them before a sum or a product.

Afterwards the sum or product is that of two images of one size (`add.py`, `multiply.py`); a difference is a
sum with the opposite. One channel for all is a place, not work (`Select`); gates, one pixel for all of a
channel, are left to products, which read them as they are.
"""

from __future__ import annotations

import torch

from regroup.engine.graph import Graph, Node, Ref, Shape, Torch, Value
from regroup.engine.operators.pixels import Pixels
from regroup.engine.operators.scale_shift import ScaleShift
from regroup.engine.operators.select import Select
from regroup.engine.recognition import name_of, recognises_several

_SUMS = ("add.Tensor", "sub.Tensor")


@recognises_several
def recognise_broadcasts(graph: Graph) -> None:
    """Let every sum, difference and product of two images read two of one size; differences are sums."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if _is_of_two_images(node):
            _rewrite(node, nodes)
        nodes.append(node)
    graph.nodes = nodes


def _is_of_two_images(node: Node) -> bool:
    if name_of(node) not in (*_SUMS, "mul.Tensor") or node.op.kwargs.get("alpha", 1) != 1:
        return False
    operands = node.op.args[:2]
    return all(isinstance(arg, Ref) for arg in operands) and all(
        v.native and len(v.shape) == 3 and v.per == node.output.per for v in (*node.inputs, node.output)
    )


def _rewrite(node: Node, nodes: list[Node]) -> None:
    """Append what spreads or negates an operand of `node`, and let it read that."""
    out, product = node.output.shape, name_of(node) == "mul.Tensor"
    values = [node.inputs[ref.index] for ref in node.op.args[:2]]
    gates = product and any(v.shape == (out[0], 1, 1) for v in values) and out in (v.shape for v in values)
    made = values if gates else [_spread(value, out, nodes) for value in values]
    function = node.op.function
    if name_of(node) == "sub.Tensor":
        ones = torch.ones(out[0], dtype=torch.float64)
        made[1] = _append(ScaleShift(-ones, 0 * ones), made[1], nodes)
        function = torch.ops.aten.add.Tensor
    if made != values:
        node.op, node.inputs = Torch(function, (Ref(0), Ref(1)), {}), tuple(made)


def _spread(value: Value, out: Shape, nodes: list[Node]) -> Value:
    channels, height, width = value.shape
    if channels != out[0]:
        value = _append(Select((0,) * out[0]), value, nodes)
    if (height, width) != out[1:]:
        rows, columns = (
            (0,) * n if size == 1 else tuple(range(n)) for size, n in ((height, out[1]), (width, out[2]))
        )
        value = _append(Pixels(rows, columns), value, nodes)
    return value


def _append(op: Select | Pixels | ScaleShift, value: Value, nodes: list[Node]) -> Value:
    shape = op.shape(value.shape)
    nodes.append(Node(op, (value,), (value.like(shape),)))
    return nodes[-1].output
