"""Local response normalisation across channels (AlexNet, GoogLeNet)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Graph, Node, Ref, Shape, Value
from regroup.engine.operator import Operator
from regroup.engine.operators.select import Select
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import SHAPES, name_of, recognises_several
from regroup.kernels import problems as kernels


@dataclass(frozen=True, eq=False)
class Lrn(Operator):
    """x / (k + alpha / size * the sum of x^2 over `size` channels) ** beta, as torch.nn.LocalResponseNorm."""

    size: int
    alpha: float
    beta: float
    k: float

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return F.local_response_norm(inputs[0], self.size, self.alpha, self.beta, self.k)

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def lower(self, node: Node, tasks: Tasks) -> None:
        numbers = {"size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}
        tasks.in_order(node, lambda x, y: kernels.LocalResponseNorm(x.view(), y.view(), **numbers))


@recognises_several
def recognise_lrn(graph: Graph) -> None:
    """Replace `x / (k + alpha * mean of x^2 over channels) ** beta` by `Lrn`; the rest dies unread."""
    producers = graph.producers()
    for node in graph.nodes:
        if name_of(node) == "div.Tensor" and len(node.inputs) == 2 and len(node.inputs[0].shape) == 3:
            op = _lrn(node, producers)
            if op is not None:
                node.op, node.inputs = op, node.inputs[:1]
    graph.remove_dead()


def _lrn(node: Node, producers: dict[Value, Node]) -> Lrn | None:
    """Follow the divisor back to the squares of the dividend."""
    steps = _back(node.inputs[1], producers)
    found = [next(steps, None) for _ in range(6)]
    names = ("pow.Tensor_Scalar", "add.Tensor", "mul.Tensor", "avg_pool3d", "constant_pad_nd", "mul.Tensor")
    if any(step is None or name_of(step) != name for step, name in zip(found, names, strict=True)):
        return None
    power, plus, times, mean, pad, square = (step for step in found if step is not None)
    size = mean.op.args[1][0]
    squares = square.inputs == node.inputs[:1] and square.op.args == (Ref(0), Ref(0))
    across = list(mean.op.args[1]) == [size, 1, 1] and list(mean.op.args[2]) == [1, 1, 1]
    padded = list(pad.op.args[1]) == [0, 0, 0, 0, size // 2, (size - 1) // 2]
    if not (squares and across and padded and len(mean.op.args) == 3):
        return None
    return Lrn(size, float(times.op.args[1]), float(power.op.args[1]), float(plus.op.args[1]))


def _is_in_order(node: Node) -> bool:
    """Tell whether it is a change of shape that has been found to be no change of channels."""
    return isinstance(node.op, Select) and node.op.channels == tuple(range(node.inputs[0].shape[0]))


def _back(value: Value, producers: dict[Value, Node]) -> Iterator[Node]:
    """Yield the node that makes `value`, then that of its only input, and so on, but for changes of shape."""
    while (node := producers.get(value)) is not None:
        if name_of(node) not in SHAPES and not _is_in_order(node):
            yield node
        if len(node.inputs) != 1:
            return
        value = node.inputs[0]
