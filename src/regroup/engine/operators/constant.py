"""Numbers that are the same for every image: class tokens, embeddings of positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regroup.engine.graph import Node, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.tasks import Tasks
from regroup.kernels import problems as kernels


@dataclass(frozen=True, eq=False)
class Constant(Operator):
    """An image of these numbers, (channels, height, width), for each of the input, which is not read."""

    numbers: Tensor

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return self.numbers.to(inputs[0].dtype).expand(len(inputs[0]), *self.numbers.shape)

    def shape(self, *inputs: Shape) -> Shape:
        return tuple(self.numbers.shape)

    def lower(self, node: Node, tasks: Tasks) -> None:
        y = tasks.settle(node, tuple(range(node.output.shape[0])))
        tasks.add(
            node.op.word, (), y, lambda: kernels.Constant(y.view(), y.view()), {"numbers": self.numbers}, node
        )
