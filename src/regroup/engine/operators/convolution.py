"""Grouped convolution, with the zeros around the image that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Node, Op, Padding, Pair, Ref, Shape, Value
from regroup.engine.operator import Weighted
from regroup.engine.placing.places import Place
from regroup.engine.placing.slots import slots_of
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, known, recognises
from regroup.kernels import problems as kernels
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Problem
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.templates.base import LINE
from regroup.kernels.templates.parts.blocks import side_by_side

_PLANAR_CHANNELS = 4
"""Images of more channels are brought into the engine's layout before a convolution reads them."""

_FAR = 8
"""Times a group's width: inputs of a group that lie that far apart are copied side by side."""


@dataclass(frozen=True, eq=False)
class Windows(Weighted):
    """What convolutions have in common: weighed windows of an image.

    Weight is (out_channels, some of the channels, height, width).
    """

    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    @property
    def kernel_size(self) -> Pair:
        """Height and width."""
        return (self.weight.shape[2], self.weight.shape[3])

    def shape(self, *inputs: Shape) -> Shape:
        (_, *image), (top, bottom, left, right) = inputs[0], self.padding
        padded = (image[0] + top + bottom, image[1] + left + right)
        sizes = [
            (size - d * (k - 1) - 1) // s + 1
            for size, k, s, d in zip(padded, self.kernel_size, self.stride, self.dilation, strict=True)
        ]
        if min(sizes) < 1:
            raise ValueError(f"a {padded[0]}x{padded[1]} image is smaller than the kernel")
        return (self.weight.shape[0], *sizes)

    def halo(self, x: Value, y: Value) -> Halo:
        (channels, *size), (outputs, *smaller) = x.shape, y.shape
        problem = kernels.Conv(
            View.nhwc(size[0], size[1], channels),
            View.nhwc(smaller[0], smaller[1], outputs),
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=(self.padding[0], self.padding[2]),
            dilation=self.dilation,
        )
        return problem.x_halo


@dataclass(frozen=True, eq=False)
class Conv(Windows):
    """Grouped convolution; weight is (out_channels, in_channels / groups, height, width)."""

    groups: int = 1

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,), (top, bottom, left, right) = inputs, self.padding
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        rest = (weight, bias, self.stride)
        if (top, left) == (bottom, right):
            return F.conv2d(x, *rest, (top, left), self.dilation, self.groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), *rest, 0, self.dilation, self.groups)

    def shape(self, *inputs: Shape) -> Shape:
        outputs, each = self.weight.shape[:2]
        if len(inputs[0]) != 3 or inputs[0][0] != each * self.groups or outputs % self.groups:
            raise ValueError(f"weights {list(self.weight.shape)} in {self.groups} groups")
        return super().shape(*inputs)

    def reads_planar(self, x: Value) -> bool:
        return self.groups == 1 and x.shape[0] <= _PLANAR_CHANNELS

    def wishes(self, channels: Sequence[int], target: Target) -> dict[int, tuple[int, ...]]:
        beside = side_by_side(self.groups, self.weight.shape[0] // self.groups, target)
        each = len(channels) // self.groups
        if beside == 1:
            return {}
        return {c: (i // each // beside, i % each, i // each % beside) for i, c in enumerate(channels)}

    @property
    def link(self) -> str:
        if self.groups == self.weight.shape[0] > 1:
            return "depthwise"
        return "pointwise" if self.kernel_size == (1, 1) and self.stride == (1, 1) else "dense"

    def lower(self, node: Node, tasks: Tasks) -> None:
        x, prologue, scales = tasks.prologue(node)
        if not node.op.before and self._is_scattered(x):
            x = tasks.aligned(node.inputs[0], tuple(range(len(x.channels))), x.slab.halo)
        by_channel = self.groups == self.weight.shape[0] == node.inputs[0].shape[0] and x.is_one_run
        # channel by channel: the output follows the order that its input has in memory
        channels = x.physical if by_channel else tasks.layout.in_memory(node, self.groups)
        order = None if by_channel else x.order
        y, work = tasks.settle(node, channels), slots_of(node)
        epilogue, operands, over = tasks.epilogue(work, channels)
        rows = list(channels)
        bias = None if self.bias is None else self.bias[rows]
        numbers = {"weight": self.weight[rows], "bias": bias, **scales, **work.numbers(rows)}

        def problem() -> Problem:
            return kernels.Conv(
                x.view(),
                y.view(),
                prologue,
                epilogue(bias is not None),
                kernel_size=self.kernel_size,
                stride=self.stride,
                padding=(self.padding[0], self.padding[2]),
                dilation=self.dilation,
                groups=self.groups,
                order=order,
            )

        tasks.add(node.op.word, (x, *operands), y, problem, numbers, node, over)

    def _is_scattered(self, x: Place) -> bool:
        """Tell whether the inputs of wide groups lie so far apart that copying them side by side pays.

        Else each is a cache line of its own, for every tap and every vector of outputs, and Winograd's way is
        closed.
        """
        outputs, each = self.weight.shape[0] // self.groups, self.weight.shape[1]
        if self.groups == 1 or min(outputs, each) < LINE or prod(self.kernel_size) == 1:
            return False
        groups = [x.channels[first : first + each] for first in range(0, len(x.channels), each)]
        return any(max(group) - min(group) >= _FAR * each for group in groups)


@recognises("convolution")
def _convolution(call: Call) -> Op | None:
    return None if call.transposed else _conv(call, call.input)


@recognises("regroup::convolution")
def _regroup_convolution(call: Call) -> Op | None:
    return _conv(call, call.x)


def _conv(call: Call, x: Ref | Tensor) -> Op | None:
    if not isinstance(x, Ref) or len(call.shape(x)) != 3 or not known(call.weight, call.bias):
        return None
    top, left = call.padding
    stride, dilation = tuple(call.stride), tuple(call.dilation)
    return Conv(call.weight, call.bias, stride, (top, top, left, left), dilation, call.groups)


@recognises("index_add")
def _index_add(call: Call) -> Op | None:
    """Onto zeros: channels that go to places given by constants are a product with a matrix of 0 and 1."""
    if isinstance(call.self, Ref) or not isinstance(call.source, Ref) or not known(call.index):
        return None
    if len(call.out) != 3 or call.dim != 1 or call.alpha != 1 or torch.count_nonzero(call.self):
        return None
    matrix = torch.zeros(call.out[0], call.shape(call.source)[0])
    matrix[call.index, torch.arange(len(call.index))] = 1
    return Conv(matrix[:, :, None, None])
