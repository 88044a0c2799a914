"""Resizing."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.problems.base import Problem


@dataclass(frozen=True)
class Resize(Problem):
    """Resize to the size of `y`.

    Attributes:
        mode: "nearest", "nearest-exact" or "bilinear".
        align_corners: for bilinear, as in PyTorch.
        scale: output pixels per source pixel (height, width) where a scale_factor was given to PyTorch, which
            then goes by that; None: sizes decide.
    """

    mode: str = "nearest"
    align_corners: bool = False
    scale: tuple[float | None, float | None] = (None, None)
