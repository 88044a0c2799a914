"""Work across the channels of each pixel."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.problems.base import Problem


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
