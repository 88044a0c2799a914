"""Fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Node, Op, Ref, Shape
from regroup.engine.operator import Weighted
from regroup.engine.placing.slots import slots_of
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, known, recognises
from regroup.kernels import problems as kernels
from regroup.kernels.problems import Problem


@dataclass(frozen=True, eq=False)
class Linear(Weighted):
    """Fully connected layer on a vector or an image of one pixel; weight is (out_features, in_features)."""

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = F.linear(x.flatten(1), self.weight.to(x.dtype), bias)
        return y.view(*y.shape, *x.shape[2:])

    def shape(self, *inputs: Shape) -> Shape:
        features, *pixels = inputs[0]
        if features != self.weight.shape[1] or any(n != 1 for n in pixels):
            raise ValueError(f"weights {list(self.weight.shape)}")
        return (self.weight.shape[0], *pixels)

    def lower(self, node: Node, tasks: Tasks) -> None:
        x, prologue, scales = tasks.prologue(node)
        channels = tuple(range(self.weight.shape[0]))
        y, work = tasks.settle(node, channels), slots_of(node)
        epilogue, operands, over = tasks.epilogue(work, channels)

        def problem() -> Problem:
            fused = prologue, epilogue(self.bias is not None)
            return kernels.Linear(x.view(), y.view(), *fused, order=x.order)

        numbers = {"weight": self.weight, "bias": self.bias, **scales, **work.numbers(channels)}
        tasks.add(node.op.word, (x, *operands), y, problem, numbers, node, over)


@recognises("addmm")
def _addmm(call: Call) -> Op | None:
    vector = isinstance(call.mat1, Ref) and len(call.shape(call.mat1)) == 1
    plain = call.beta == 1 and call.alpha == 1 and known(call.self, call.mat2)
    return Linear(call.mat2.t(), call.self.expand(call.mat2.shape[1])) if vector and plain else None


@recognises("mm")
def _mm(call: Call) -> Op | None:
    vector = isinstance(call.self, Ref) and len(call.shape(call.self)) == 1
    return Linear(call.mat2.t()) if vector and known(call.mat2) else None
