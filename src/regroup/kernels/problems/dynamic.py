"""Dynamic group convolution (arXiv:2007.04242): which inputs a head reads, each image decides by itself.

`Largest` makes the choice of an image, `DynamicConv` reads inputs and weights by it: nothing is gathered.
"""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.problems.base import Problem, Shape
from regroup.kernels.problems.conv import Conv
from regroup.kernels.problems.fused import NO_EPILOGUE, Epilogue
from regroup.kernels.problems.view import Halo, View
from regroup.spec import Size


@dataclass(frozen=True)
class Largest(Problem):
    """For each head, which of its numbers are the `kept` largest, in rising order, and how large they are.

    `x` is a vector of `heads` runs of numbers, `y` one of 2 * heads * kept floats: all heads' positions
    within their runs, then all values. Signs do not count, NaN is larger than all else, and of equal numbers
    the first is larger.
    """

    heads: int = 1

    @property
    def kept(self) -> int:
        """Inputs that each head keeps."""
        return self.y.channels // (2 * self.heads)


@dataclass(frozen=True)
class DynamicConv(Problem):
    """`y[o] = sum over the inputs c that head h keeps of s_hc * (W_oc * x_c)`, then the epilogue.

    Output o belongs to head `o // (y.channels // heads)`. `x` must have the halo `x_halo`.

    Attributes:
        choice: what `Largest` gives for these heads: positions among the logical inputs, and saliencies.
        heads: number of heads.
        kernel_size: (height, width).
        stride: (height, width).
        padding: zeros above and left.
        dilation: (height, width).
        order: channel of `x` that holds logical input i, for each i; None is 0, 1, 2, ...
        epilogue: what happens to the sums.
    """

    choice: View
    heads: int = 1
    kernel_size: Size = (1, 1)
    stride: Size = (1, 1)
    padding: Size = (0, 0)
    dilation: Size = (1, 1)
    order: tuple[int, ...] | None = None
    epilogue: Epilogue = NO_EPILOGUE

    @property
    def views(self) -> tuple[View, ...]:
        """The input, the choice, what the epilogue reads, the output."""
        return (self.x, self.choice, *self.epilogue.views, self.y)

    @property
    def view_names(self) -> tuple[str, ...]:
        """In the order of `views`."""
        return ("x", "choice", *self.epilogue.view_names, "y")

    @property
    def constants(self) -> tuple[str, ...]:
        """The slopes, if there are any."""
        return self.of_kept.constants

    @property
    def in_channels(self) -> int:
        """Logical inputs."""
        return self.x.channels if self.order is None else len(self.order)

    @property
    def kept(self) -> int:
        """Inputs that each head keeps."""
        return self.choice.channels // (2 * self.heads)

    @property
    def head_out(self) -> int:
        """Outputs of a head."""
        return self.y.channels // self.heads

    @property
    def of_kept(self) -> Conv:
        """A convolution of the same shape whose outputs all read the first inputs of `x`, `kept` of them."""
        return Conv(
            self.x,
            self.y,
            epilogue=self.epilogue,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            order=tuple(range(self.kept)),
        )

    @property
    def parameters(self) -> dict[str, Shape]:
        """All inputs' weights: any of them may be chosen."""
        shape: Shape = (self.y.channels, self.in_channels, *self.kernel_size)
        named = (*(["bias"] if self.epilogue.bias else []), *self.constants)
        return {"weight": shape} | dict.fromkeys(named, (self.y.channels,))

    @property
    def macs(self) -> int:
        """Of what is kept."""
        return self.of_kept.macs

    @property
    def x_halo(self) -> Halo:
        """What the windows of the outermost pixels reach."""
        return self.of_kept.x_halo
