"""The three passes of a convolution, and who can compute each.

A convolution y = F(x, w) is trained by three sums over the same products: the output, the gradient of the
input I(g, w), and that of the weights W(x, g), g being the gradient of y. Each is linear in both arguments,
and the derivatives of the three are the three again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pass = Literal["forward", "input_gradient", "weight_gradient"]
WIDEST = 16
"""Channels of a group above which a product of matrices is quicker than sums over lines."""

PASSES: tuple[Pass, ...] = ("forward", "input_gradient", "weight_gradient")
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One concrete convolution: what a backend looks at to say whether it can compute it.

    Attributes:
        x: shape (N, C, *size), of one to three spatial dimensions.
        weight: shape (K, C / groups, *kernel size).
        stride: steps of the window.
        padding: zeros on both sides.
        dilation: distances of taps.
        groups: number of groups.
        dtype: of all tensors.
        device: type of it, such as "cpu".
        channels_last: whether the tensor that is read has its channels side by side.
    """

    x: Sizes
    weight: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    channels_last: bool = False

    @property
    def out(self) -> Sizes:
        """Spatial size of the output."""
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                self.x[2:], self.weight[2:], self.stride, self.padding, self.dilation, strict=True
            )
        )

    @property
    def y(self) -> Sizes:
        """Shape (N, K, *out)."""
        return (self.x[0], self.weight[0], *self.out)

    @property
    def width_in(self) -> int:
        """Input channels of a group."""
        return self.weight[1]

    @property
    def width_out(self) -> int:
        """Output channels of a group."""
        return self.weight[0] // self.groups

    @property
    def macs(self) -> int:
        """Multiply-adds of each pass."""
        return self.x[0] * math.prod(self.out) * math.prod(self.weight)


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the format that results of `x` get: channels last if that is what it is, else contiguous."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if last is not None and x.is_contiguous(memory_format=last) and not x.is_contiguous():
        return last
    return torch.contiguous_format


class Backend(ABC):
    """Someone who can compute passes of convolutions, and who says why not when he cannot.

    Attributes:
        name: what people call it.
    """

    name: str

    @abstractmethod
    def why_not(self, which: Pass, call: Call) -> str | None:
        """Return why it cannot compute a pass, None if it can."""

    @abstractmethod
    def expected(self, which: Pass, call: Call) -> float:
        """Return the seconds that a pass is expected to take; of those who can, the quickest is chosen."""

    @abstractmethod
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        """Return y, (N, K, *out), in the memory format of x."""

    @abstractmethod
    def input_gradient(self, g: Tensor, weight: Tensor, call: Call) -> Tensor:
        """Return the gradient of x, from that of y."""

    @abstractmethod
    def weight_gradient(self, x: Tensor, g: Tensor, call: Call) -> Tensor:
        """Return the gradient of the weights, from that of y."""


class Reference(Backend):
    """The definition: a loop over groups, each a sum of products over windows.

    y[n, k, p] = sum over c in group(k), t of x[n, c, p * stride + t * dilation - padding] * w[k, c, t],
    where group g holds input channels g*C/G ... and output channels g*K/G ... (Krizhevsky et al. 2012,
    section 3.2, as two groups on two devices).
    """

    name = "reference"

    def why_not(self, which: Pass, call: Call) -> str | None:
        """Return None: the definition is for all."""
        return None

    def expected(self, which: Pass, call: Call) -> float:
        """Return infinity: it is there to be compared with."""
        return math.inf

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        """Return y by the definition."""
        windows, rank = _windows(x, call), len(call.stride)
        axes = range(-rank, 0)
        parts = [
            torch.tensordot(window, part, ([1, *axes], [1, *(a + part.dim() for a in axes)]))
            for window, part in zip(windows.chunk(call.groups, 1), weight.chunk(call.groups), strict=True)
        ]
        y = torch.cat(parts, -1).movedim(-1, 1)
        return y if bias is None else y + bias.view(-1, *(1,) * rank)

    def input_gradient(self, g: Tensor, weight: Tensor, call: Call) -> Tensor:
        """Return the gradient of x through the definition, which is linear in x."""
        start = g.new_zeros(call.x)
        return torch.func.vjp(lambda x: self.forward(x, weight, None, call), start)[1](g)[0]

    def weight_gradient(self, x: Tensor, g: Tensor, call: Call) -> Tensor:
        """Return the gradient of the weights through the definition, which is linear in them."""
        start = g.new_zeros(call.weight)
        return torch.func.vjp(lambda weight: self.forward(x, weight, None, call), start)[1](g)[0]


def _windows(x: Tensor, call: Call) -> Tensor:
    """Return a view (N, C, *out, *kernel size) of the padded input."""
    padding = [p for p in reversed(call.padding) for _ in range(2)]
    windows = torch.nn.functional.pad(x, padding)
    for i, (k, s, d) in enumerate(zip(call.weight[2:], call.stride, call.dilation, strict=True)):
        windows = windows.unfold(2 + i, d * (k - 1) + 1, s)[..., ::d]
    return windows
