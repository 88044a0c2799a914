"""PyTorch's own convolutions as a backend, and how long they take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regroup.ops.costs import seconds
from regroup.ops.passes import Backend, Call, Pass, memory_format


class Aten(Backend):
    """PyTorch's own operators."""

    name = "aten"

    def why_not(self, which: Pass, call: Call) -> str | None:
        """Return None: PyTorch has every pass."""
        return None

    def expected(self, which: Pass, call: Call) -> float:
        """Return the seconds of one thread, on a CPU in float32; infinity otherwise."""
        known = call.device == "cpu" and call.dtype == torch.float32
        return seconds(self.name, which, call) if known else math.inf

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        """Return y."""
        sizes = call.stride, call.padding, call.dilation, False, (0,) * len(call.stride)
        return torch.ops.aten.convolution(x, weight, bias, *sizes, call.groups)

    def input_gradient(self, g: Tensor, weight: Tensor, call: Call) -> Tensor:
        """Return the gradient of x."""
        # never read, but its strides choose the library: one of strides 0 is up to 15 times slower
        x = torch.empty(call.x, dtype=g.dtype, device=g.device, memory_format=memory_format(g))
        return self._backward(g, x, weight, call, (True, False, False))[0]

    def weight_gradient(self, x: Tensor, g: Tensor, call: Call) -> Tensor:
        """Return the gradient of the weights."""
        return self._backward(g, x, g.new_empty(call.weight), call, (False, True, False))[1]

    @staticmethod
    def _backward(
        g: Tensor, x: Tensor, weight: Tensor, call: Call, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, ...]:
        sizes = call.stride, call.padding, call.dilation, False, (0,) * len(call.stride)
        return torch.ops.aten.convolution_backward(g, x, weight, None, *sizes, call.groups, wanted)
