"""Convolutions and the gradients of their inputs as one kind of work."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.lines.geometry import Planes, Tap, Triple
from regroup.kernels.lines.problem import Forward, InputGradient
from regroup.kernels.templates.lines.staging import all_phases, used_phases


@dataclass(frozen=True)
class Way:
    """A convolution or an input's gradient, alike: what is read, what is written, by which taps.

    Attributes:
        read: the tensor that is summed over, as lines.
        written: the result, as lines.
        width_read: channels of a group that are read.
        width_written: channels of a group that are written.
        taps: those that make each phase of the result.
        read_step: weights from one channel that is read to the next.
        written_step: weights from one channel that is written to the next.
        bias: whether sums begin with one.
    """

    read: Planes
    written: Planes
    width_read: int
    width_written: int
    taps: dict[Triple, list[Tap]]
    read_step: int
    written_step: int
    bias: bool

    @classmethod
    def of(cls, problem: Forward | InputGradient) -> Way:
        """Return what a problem is."""
        shape, x, y = problem.geometry, problem.input, problem.output
        count = shape.taps
        if isinstance(problem, Forward):
            read = x.along(shape.input_axis)
            written = y.along(shape.output_axis)
            taps, widths = shape.taps_of_outputs(), (problem.width_in, problem.width_out)
            return cls(read, written, *widths, taps, count, problem.width_in * count, problem.bias)
        read = y.along(shape.upstream_axis)
        written = x.along(shape.gradient_axis)
        taps, widths = shape.taps_of_gradient(), (problem.width_out, problem.width_in)
        return cls(read, written, *widths, taps, problem.width_in * count, count, False)

    @property
    def phases(self) -> tuple[Triple, ...]:
        """Phases of the result."""
        return all_phases(self.written)

    @property
    def phases_read(self) -> tuple[Triple, ...]:
        """Phases that taps read."""
        return used_phases({tap.phase for taps in self.taps.values() for tap in taps})
