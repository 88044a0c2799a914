"""What is asked of line kernels: a convolution, the gradient of its input, that of its weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from regroup.kernels.lines.geometry import Geometry, Planes
from regroup.kernels.problems.base import Problem
from regroup.kernels.problems.view import ARENA, View

X, WEIGHT, Y, BIAS = 2, 3, 4, 5
"""Buffers of a program: input (or its gradient), weights (or theirs), output (or its gradient), bias."""

_ANYWHERE = View.vector(1)
"""Tensors lie as `Planes` say: a view only names a buffer."""


@dataclass(frozen=True)
class Grouped(Problem):
    """A convolution in groups, or one of its gradients.

    Tensors lie in buffers of their own, as PyTorch has them: any strides of images and channels; weights are
    (out channels, in channels / groups, *kernel size) without gaps.

    Attributes:
        geometry: sizes, kernel, stride, padding, dilation.
        input: x or its gradient in memory.
        output: y or its gradient in memory.
        images: batch size.
        groups: number of groups.
        width_in: input channels of a group.
        width_out: output channels of a group.
    """

    x: View = field(default=_ANYWHERE, repr=False)
    y: View = field(default=_ANYWHERE, repr=False)
    geometry: Geometry = None  # type: ignore[assignment]
    input: Planes = None  # type: ignore[assignment]
    output: Planes = None  # type: ignore[assignment]
    images: int = 1
    groups: int = 1
    width_in: int = 1
    width_out: int = 1

    @property
    def weights(self) -> int:
        """Numbers in the weights."""
        return self.groups * self.width_out * self.width_in * self.geometry.taps


@dataclass(frozen=True)
class Forward(Grouped):
    """y = conv(x, weight) + bias."""

    bias: bool = False

    @property
    def views(self) -> tuple[View, ...]:
        """Input, weights, bias if there is one, output."""
        buffers = (X, WEIGHT, *((BIAS,) if self.bias else ()), Y)
        return tuple(View.vector(1, buffer=buffer) for buffer in buffers)


@dataclass(frozen=True)
class InputGradient(Grouped):
    """The gradient of x, from that of y and the weights; `input` is where it goes."""

    @property
    def views(self) -> tuple[View, ...]:
        """The outputs' gradient, weights, the input's gradient."""
        return tuple(View.vector(1, buffer=buffer) for buffer in (Y, WEIGHT, X))


@dataclass(frozen=True)
class WeightGradient(Grouped):
    """The gradient of the weights, from x and the gradient of y, summed over `parts` shares of the images.

    Each part has sums of its own, in the arena if there are several: `SumParts` adds them, so that results
    do not depend on the number of threads.
    """

    parts: int = 1

    @property
    def views(self) -> tuple[View, ...]:
        """Input, the outputs' gradient, the weights' gradient or the parts of it."""
        to = View.vector(self.weights * self.parts) if self.parts > 1 else View.vector(1, buffer=WEIGHT)
        return (View.vector(1, buffer=X), View.vector(1, buffer=Y), to)


@dataclass(frozen=True)
class SumParts(Problem):
    """Adds up parts, one after the other."""

    x: View = _ANYWHERE
    y: View = _ANYWHERE
    parts: int = 1
    count: int = 1

    @property
    def views(self) -> tuple[View, ...]:
        """Where the parts lie, one after another, and where their sum goes."""
        return (View.vector(self.parts * self.count, buffer=ARENA), View.vector(1, buffer=WEIGHT))
