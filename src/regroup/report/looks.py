"""How the strategies of a comparison are told apart: each family has a colour and a shape of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

COLOURS = (
    "#4269d0", "#b8860b", "#e8553d", "#1f9e89", "#2e8b3d", "#d6457f",
    "#8e5bd8", "#3d8fd1", "#9c6b4e", "#6b7a80", "#c22e5f", "#0e7c7b",
)  # fmt: skip
"""At least three times as light or as dark as a white page and as a dark one."""
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "*", ">")
"""Matplotlib's names; with the colours they have no common divisor: no two families get both."""
INK, FAINT, SOFT = "#24292f", "#d0d7de", "#57606a"


@dataclass(frozen=True)
class Look:
    """What a family is drawn with.

    Args:
        colour: as HTML has it.
        shape: of its points, as matplotlib names it.
    """

    colour: str
    shape: str

    @property
    def path(self) -> str:
        """The outline of the shape as an SVG path between -1 and 1."""
        return _path(self.shape)


def family(label: str) -> str:
    """Return the name of a strategy without its options.

    >>> family("grouped:groups=4")
    'grouped'
    """
    return label.partition(":")[0]


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Return the look of each family among the strategies."""
    names = sorted({family(label) for label in labels})
    return {name: Look(COLOURS[i % len(COLOURS)], _SHAPES[i % len(_SHAPES)]) for i, name in enumerate(names)}


@lru_cache(32)
def _path(shape: str) -> str:
    import numpy as np
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path

    marker = MarkerStyle(shape)
    words = []
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    outline = marker.get_path().transformed(marker.get_transform())
    size = np.abs(np.asarray(outline.vertices)).max()
    for points, code in outline.iter_segments(simplify=False):
        numbers = points.reshape(-1, 2) * (1, -1) / size  # down is positive in SVG
        letter = "Z" if code == Path.CLOSEPOLY else letters[code]
        words.append(letter + " ".join(f"{v:g}" for v in numbers.round(3).ravel()) * (letter != "Z"))
    return "".join(words)
