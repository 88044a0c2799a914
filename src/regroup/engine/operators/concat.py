"""Concatenation of channels: no work, for its inputs are put beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regroup.engine.graph import Node, Ref, Shape
from regroup.engine.operator import Alias
from regroup.engine.placing.places import Place
from regroup.engine.recognition import Call, Found, recognises


@dataclass(frozen=True, eq=False)
class Concat(Alias):
    """Channels of all inputs, one after another."""

    arity = None
    joins = True

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, 1)

    def shape(self, *inputs: Shape) -> Shape:
        if len({tuple(pixels) for _, *pixels in inputs}) != 1:
            raise ValueError("images of several sizes")
        return (sum(channels for channels, *_ in inputs), *inputs[0][1:])

    def place(self, node: Node, places: Sequence[Place]) -> Place:
        return Place(places[0].slab, sum((place.channels for place in places), ()))


@recognises("cat")
def _cat(call: Call) -> Found | None:
    dim, parts = call.dim if call.dim >= 0 else call.dim + len(call.out) + 1, call.tensors
    alike = all(isinstance(part, Ref) and len(call.shape(part)) == len(call.out) for part in parts)
    return Found(Concat(), parts) if dim == 1 and alike and len(call.out) in (1, 3) else None
