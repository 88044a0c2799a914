"""Another shape: images of one pixel as vectors and back, images as vectors; no work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from regroup.engine.graph import Node, Op, Shape
from regroup.engine.operator import Alias
from regroup.engine.placing.places import Place
from regroup.engine.recognition import Call, recognises


@dataclass(frozen=True, eq=False)
class Reshape(Alias):
    """The same numbers in PyTorch's order under another shape."""

    to: Shape

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(inputs[0].shape[0], *self.to)

    def shape(self, *inputs: Shape) -> Shape:
        if prod(inputs[0]) != prod(self.to):
            raise ValueError(f"another number of numbers than {list(self.to)}")
        return self.to

    def place(self, node: Node, places: Sequence[Place]) -> Place:
        return places[0].flattened() if self.makes_vector(node.inputs[0].shape) else places[0]

    def makes_vector(self, x: Shape) -> bool:
        return x != self.to and x[1:] not in ((), (1, 1))


@recognises(
    "reshape", "squeeze_copy.dim", "squeeze_copy.dims", "clone", "alias_copy", "expand_copy",
)  # fmt: skip
def _reshape(call: Call) -> Op | None:
    shape = call.inputs[0].shape
    vector = len(call.out) == 1 and len(shape) in (1, 3)
    spread = len(call.out) == 3 and len(shape) in (1, 3) and call.out[1:] == (1, 1)
    same = prod(shape) == prod(call.out)
    return Reshape(call.out) if same and (vector or spread or shape == call.out) else None
