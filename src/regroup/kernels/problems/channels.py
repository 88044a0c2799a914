"""Work across the channels of each pixel, and norms."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.problems.base import Problem, Shape
from regroup.kernels.problems.view import View

_NO_SCALES = View.vector(0)


@dataclass(frozen=True)
class LocalResponseNorm(Problem):
    """Across channels: `x / (k + alpha / size * sum x^2) ** beta`, as `torch.nn.LocalResponseNorm`."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


@dataclass(frozen=True)
class Softmax(Problem):
    """Over the channels of each pixel."""

    log: bool = False


@dataclass(frozen=True)
class AcrossChannels(Problem):
    """One channel of all: their "average", "sum" or "max"."""

    kind: str = "average"


@dataclass(frozen=True)
class LayerNorm(Problem):
    """(x - mean) / sqrt(var + eps) * weight + bias, with the moments of each pixel's channels."""

    eps: float = 1e-5

    @property
    def parameters(self) -> dict[str, Shape]:
        """A number for each channel."""
        return {"weight": (self.y.channels,), "bias": (self.y.channels,)}


@dataclass(frozen=True)
class Moments(Problem):
    """The mean of each channel over all pixels, then the variance of each: `y` is a vector of both."""


@dataclass(frozen=True)
class NormScales(Problem):
    """The moments of channels -> what scales and shifts each of them to a norm of its group: vectors of both.

    scale = weight / sqrt(var + eps), shift = bias - mean * scale, with mean and variance of the group.
    """

    groups: int = 1
    eps: float = 1e-5

    @property
    def parameters(self) -> dict[str, Shape]:
        """A number for each channel."""
        channels = self.y.channels // 2
        return {"weight": (channels,), "bias": (channels,)}


@dataclass(frozen=True)
class Modulate(Problem):
    """x * scale + shift, with a scale and a shift for each channel that were computed, then an activation."""

    scales: View = _NO_SCALES
    activation: str = "none"

    @property
    def views(self) -> tuple[View, ...]:
        """The image, the scales followed by the shifts, the result."""
        return (self.x, self.scales, self.y)

    @property
    def view_names(self) -> tuple[str, ...]:
        """In the order of `views`."""
        return ("x", "scales", "y")
