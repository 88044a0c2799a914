"""Pooling, by windows and to a fixed number of cells."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.problems.base import Problem
from regroup.spec import Size


@dataclass(frozen=True)
class Pool(Problem):
    """Max or average over windows; the output size (`y`) carries ceil mode.

    Attributes:
        kind: "max" or "average".
        kernel_size: (height, width).
        stride: (height, width).
        padding: above and left.
        dilation: (height, width), for max only.
        count_include_pad: average divides by the window's pixels inside the *padded* image, as PyTorch
            does; otherwise by those inside the image.
        padded: bottom and right padding that the count includes.
        divisor: a fixed divisor instead (0: none).
        activation: applied at the end.
    """

    kind: str = "max"
    kernel_size: Size = (2, 2)
    stride: Size = (2, 2)
    padding: Size = (0, 0)
    dilation: Size = (1, 1)
    count_include_pad: bool = True
    padded: Size = (0, 0)
    divisor: int = 0
    activation: str = "none"


@dataclass(frozen=True)
class AdaptivePool(Problem):
    """Over `y.height` x `y.width` cells as PyTorch defines them: "average", "max" or "sum"."""

    kind: str = "average"
