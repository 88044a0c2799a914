"""Elementwise work, copies among it; constants."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.problems.base import Fused, Problem, Shape
from regroup.kernels.problems.view import View


@dataclass(frozen=True)
class Pointwise(Fused):
    """Elementwise work that no convolution could absorb.

    Without an `order` it may be in place: `y` the same view as `x`.

    `y = epilogue(prologue(x))`: scale and shift, activation, gate, sum of two tensors, in this order.
    Without either it is a copy: of channels in another `order`, from NCHW to NHWC or back
    (`channel_pitch`), into a slice.

    Attributes:
        order: channel of `x` for each channel of `y`.
        factor: a second tensor to multiply by, before the epilogue; a view as large as `y`.
    """

    order: tuple[int, ...] | None = None
    factor: View | None = None

    @property
    def views(self) -> tuple[View, ...]:
        """As for a convolution, the factor before the output."""
        extra = () if self.factor is None else (self.factor,)
        return (*super().views[:-1], *extra, self.y)

    @property
    def view_names(self) -> tuple[str, ...]:
        """In the order of `views`."""
        extra = () if self.factor is None else ("factor",)
        return (*super().view_names[:-1], *extra, "y")

    @property
    def parameters(self) -> dict[str, Shape]:
        """What is fused, per channel of `y`."""
        return self.fused_parameters(self.y.channels)


@dataclass(frozen=True)
class Constant(Problem):
    """Write `numbers`, (channels, height, width), to `y`; there is no input, `x` is `y`."""

    @property
    def views(self) -> tuple[View, ...]:
        """The one tensor."""
        return (self.y,)

    @property
    def parameters(self) -> dict[str, Shape]:
        """All of them."""
        return {"numbers": (self.y.channels, self.y.height, self.y.width)}
