"""Tensors as lines: what makes convolutions of any dimension, stride, dilation and padding one loop.

Each channel of an image is copied into a *line* of private memory, the zeros of the padding in place, and
every `stride`-th number of a dimension side by side: the *phases*. Then each kernel tap is a fixed distance
in the line, and an output is a sum of products at constant distances, whatever the convolution was:

    y[o][f] = sum over c, tap of w[o, c, tap] * x[c][phase of tap][f + distance of tap].

Outputs lie in lines of the same pitch, so that `f` runs through rows and the few numbers between them alike.
The gradient of the input is such a sum too, with a phase of its outputs for each phase of the stride; that of
the weights is a product of two lines for each tap.

Tensors have three spatial dimensions here: images have a depth of 1, sequences a depth and height of 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from math import prod

Triple = tuple[int, int, int]


def triples(sizes: Triple) -> list[Triple]:
    """Return the places of a grid of so many, row by row."""
    a, b, c = sizes
    return list(product(range(a), range(b), range(c)))


@dataclass(frozen=True)
class Axis:
    """One dimension of a tensor, and where its numbers lie in lines.

    Number `i` is at position `(i + lead) // step` of phase `(i + lead) % step`.

    Attributes:
        size: numbers in the tensor.
        stride: floats from one to the next, in the tensor.
        lead: positions before the first.
        step: phases.
        length: positions of a line; those that no number has hold zero.
    """

    size: int
    stride: int
    lead: int
    step: int
    length: int

    def inside(self, phase: int) -> range:
        """Return the positions of a phase that hold a number."""
        first = max(0, -((self.lead - phase) // -self.step))
        last = (self.size - 1 + self.lead - phase) // self.step
        return range(first, max(first, min(last + 1, self.length)))


@dataclass(frozen=True)
class Planes:
    """A tensor (images, channels, depth, height, width) in memory, and its lines.

    Attributes:
        image: floats from one image to the next.
        channel: floats from one channel to the next.
        axes: depth, height, width.
    """

    image: int
    channel: int
    axes: tuple[Axis, Axis, Axis]

    def along(self, axis: Callable[[int, int], Axis]) -> Planes:
        """Return the same memory with other lines: `axis` makes one of its number and its stride."""
        first, second, third = (axis(i, old.stride) for i, old in enumerate(self.axes))
        return replace(self, axes=(first, second, third))

    @property
    def steps(self) -> Triple:
        """Phases of each axis."""
        return (self.axes[0].step, self.axes[1].step, self.axes[2].step)

    @property
    def lengths(self) -> Triple:
        """Positions of each axis."""
        return (self.axes[0].length, self.axes[1].length, self.axes[2].length)


@dataclass(frozen=True)
class Tap:
    """One place of the kernel.

    Attributes:
        number: in the order of the weights.
        phase: of the lines that are read.
        shift: positions to go on, in each dimension.
    """

    number: int
    phase: Triple
    shift: Triple


@dataclass(frozen=True)
class Geometry:
    """The spatial side of a convolution.

    Attributes:
        size: of the input.
        out: of the output.
        kernel_size: taps.
        stride: steps of the window.
        padding: zeros before the first number.
        dilation: distance of taps.
    """

    size: Triple
    out: Triple
    kernel_size: Triple
    stride: Triple
    padding: Triple
    dilation: Triple

    @property
    def taps(self) -> int:
        """Places of the kernel."""
        return prod(self.kernel_size)

    def _reach(self, i: int) -> int:
        """Return how many positions the last tap lies behind the first."""
        return (self.kernel_size[i] - 1) * self.dilation[i] // self.stride[i]

    def _places(self) -> list[tuple[int, Triple]]:
        return list(enumerate(triples(self.kernel_size)))

    def _split(self, place: Triple) -> tuple[Triple, Triple]:
        """Return phase and shift of a tap."""
        steps = [divmod(t * d, s) for t, d, s in zip(place, self.dilation, self.stride, strict=True)]
        (a, p), (b, q), (c, r) = steps
        return (p, q, r), (a, b, c)

    def input_axis(self, i: int, stride: int) -> Axis:
        """Return a dimension of the input, as the outputs and the weights' gradient read it."""
        return Axis(self.size[i], stride, self.padding[i], self.stride[i], self.out[i] + self._reach(i))

    def output_axis(self, i: int, stride: int) -> Axis:
        """Return a dimension of the output, as it is written, and read for the weights' gradient."""
        return Axis(self.out[i], stride, 0, 1, self.out[i])

    def taps_of_outputs(self) -> dict[Triple, list[Tap]]:
        """Return the taps that make each phase of the outputs, of which there is one."""
        return {(0, 0, 0): [Tap(n, *self._split(place)) for n, place in self._places()]}

    # The gradient at padded input q = out * stride + tap * dilation: the phase of q chooses the taps.

    def _first(self, i: int) -> int:
        return self.padding[i] // self.stride[i]

    def gradient_axis(self, i: int, stride: int) -> Axis:
        """Return a dimension of the input's gradient, as it is written."""
        first, step = self._first(i), self.stride[i]
        last = (self.padding[i] + self.size[i] - 1) // step
        return Axis(self.size[i], stride, self.padding[i] - first * step, step, last - first + 1)

    def upstream_axis(self, i: int, stride: int) -> Axis:
        """Return a dimension of the outputs' gradient, as that of the input reads it."""
        length = self.gradient_axis(i, 0).length + self._reach(i)
        return Axis(self.out[i], stride, self._reach(i) - self._first(i), 1, length)

    def taps_of_gradient(self) -> dict[Triple, list[Tap]]:
        """Return the taps that make each phase of the input's gradient."""
        found: dict[Triple, list[Tap]] = {phase: [] for phase in triples(self.stride)}
        for n, place in self._places():
            phase, (a, b, c) = self._split(place)
            shift = (self._reach(0) - a, self._reach(1) - b, self._reach(2) - c)
            found[phase].append(Tap(n, (0, 0, 0), shift))
        return found
