"""Maximum or average over windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Node, Op, Padding, Pair, Shape
from regroup.engine.operator import Operator
from regroup.engine.placing.places import Place
from regroup.engine.placing.slots import ACTIVATION, slots_of
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, pair, recognises
from regroup.kernels import problems as kernels
from regroup.kernels.problems import Problem


@dataclass(frozen=True, eq=False)
class Pool(Operator):
    """Maximum ("max") or average ("avg") over windows, which divides by what PyTorch's does."""

    kind: str
    kernel: Pair
    stride: Pair
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False
    count_padding: bool = True
    divisor: int | None = None

    slots = ACTIVATION
    link = "pool"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,), padding = inputs, (self.padding[0], self.padding[2])
        if self.kind == "max":
            return F.max_pool2d(x, self.kernel, self.stride, padding, self.dilation, self.ceil)
        return F.avg_pool2d(x, self.kernel, self.stride, padding, self.ceil, self.count_padding, self.divisor)

    def shape(self, *inputs: Shape) -> Shape:
        channels, *image = inputs[0]
        sizes = []
        for size, k, s, p, d in zip(
            image, self.kernel, self.stride, self.padding[::2], self.dilation, strict=True
        ):
            room = size + 2 * p - d * (k - 1) - 1
            count = -(-room // s) + 1 if self.ceil else room // s + 1
            # the last window of a rounded-up size must begin within the image or the zeros before it
            sizes.append(count - 1 if self.ceil and (count - 1) * s >= size + p else count)
        return (channels, *sizes)

    def lower(self, node: Node, tasks: Tasks) -> None:
        activation = slots_of(node).activation

        def problem(x: Place, y: Place) -> Problem:
            return kernels.Pool(
                x.view(),
                y.view(),
                kind="max" if self.kind == "max" else "average",
                kernel_size=self.kernel,
                stride=self.stride,
                padding=(self.padding[0], self.padding[2]),
                dilation=self.dilation,
                count_include_pad=self.count_padding,
                padded=(self.padding[1], self.padding[3]),
                divisor=self.divisor or 0,
                activation=activation,
            )

        tasks.by_channel(node, problem)


@recognises("max_pool2d_with_indices")
def _max_pool(call: Call) -> Op | None:
    return _pool(call, "max", dilation=pair(call.dilation))


@recognises("avg_pool2d")
def _avg_pool(call: Call) -> Op | None:
    return _pool(call, "avg", count_padding=call.count_include_pad, divisor=call.divisor_override)


def _pool(call: Call, kind: str, **options: Any) -> Op | None:
    if len(call.out) != 3:
        return None
    kernel, (top, left) = pair(call.kernel_size), pair(call.padding)
    stride = pair(call.stride) if call.stride else kernel
    return Pool(kind, kernel, stride, (top, top, left, left), ceil=call.ceil_mode, **options)
