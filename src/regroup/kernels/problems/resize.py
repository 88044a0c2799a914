"""Pixels from elsewhere: resizing, and pixels picked one by one."""

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


@dataclass(frozen=True)
class Pick(Problem):
    """Pixel (i, j) of the output is pixel (`rows[i]`, `columns[j]`) of the input.

    Attributes:
        rows: for each row of `y`; a negative one is filled with `value`.
        columns: for each column of `y`, likewise.
        value: what fills.
    """

    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    value: float = 0.0
