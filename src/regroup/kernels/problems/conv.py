"""Convolutions and linear layers.

>>> from regroup.kernels.problems.fused import Epilogue
>>> from regroup.kernels.problems.view import View
>>> x, y = View.nhwc(14, 14, 64, halo=Halo(1, 1, 1, 1)), View.nhwc(14, 14, 128)
>>> conv = Conv(x, y, kernel_size=(3, 3), padding=(1, 1), groups=32, epilogue=Epilogue(activation="relu"))
>>> conv.macs
451584
>>> conv.parameters
{'weight': (128, 2, 3, 3)}
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from regroup.kernels.problems.base import Fused, Shape
from regroup.kernels.problems.view import Halo
from regroup.spec import Size


@dataclass(frozen=True)
class Conv(Fused):
    """A convolution of any groups, kernel, stride, dilation; transposed ones are not.

    Output sizes come from `y`: bottom and right padding are whatever that needs. `x` must have the halo
    `x_halo`, unless `x` is planar (`channel_pitch != 1`): a planar input is padded by the kernel.

    Attributes:
        kernel_size: (height, width).
        stride: (height, width).
        padding: zeros above and left.
        dilation: (height, width).
        groups: output channel o belongs to group `o // (y.channels // groups)`.
        order: channel of `x` that holds logical input channel i, for each i; None is 0, 1, 2, ... May name
            any channels of `x`, each any number of times: shuffles and index-selects cost nothing here.
            A depthwise convolution (`in_channels == groups`) also takes one.
    """

    kernel_size: Size = (1, 1)
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: Size = (1, 1)
    groups: int = 1
    order: tuple[int, ...] | None = None

    @property
    def in_channels(self) -> int:
        """Logical input channels."""
        return self.x.channels if self.order is None else len(self.order)

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.y.channels // self.groups

    @property
    def parameters(self) -> dict[str, Shape]:
        """`weight` as PyTorch has it, then what is fused."""
        shape = (self.y.channels, self.group_in, *self.kernel_size)
        return {"weight": shape} | self.fused_parameters(self.x.channels)

    @property
    def macs(self) -> int:
        """One per weight and output pixel."""
        return self.y.height * self.y.width * prod(self.parameters["weight"])

    @property
    def x_halo(self) -> Halo:
        """What the windows of the outermost pixels reach."""
        (top, bottom), (left, right) = (
            _overhang(size_in, size_out, k, s, p, d)
            for size_in, size_out, k, s, p, d in zip(
                (self.x.height, self.x.width),
                (self.y.height, self.y.width),
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                strict=True,
            )
        )
        return Halo(top, left, bottom, right)


def _overhang(size_in: int, size_out: int, k: int, s: int, p: int, d: int) -> tuple[int, int]:
    last = (size_out - 1) * s - p + (k - 1) * d
    return max(p, 0), max(last - (size_in - 1), 0)


@dataclass(frozen=True)
class Linear(Fused):
    """`y = W x + b` for vectors (1x1 views); `order` as in `Conv`.

    A flattened image is a vector whose channels the weights' columns are permuted to follow.
    """

    order: tuple[int, ...] | None = None

    @property
    def in_channels(self) -> int:
        """Logical inputs."""
        return self.x.channels if self.order is None else len(self.order)

    @property
    def parameters(self) -> dict[str, Shape]:
        """`weight` as PyTorch has it, then what is fused."""
        return {"weight": (self.y.channels, self.in_channels)} | self.fused_parameters(self.x.channels)

    @property
    def macs(self) -> int:
        """One per weight."""
        return self.y.channels * self.in_channels
