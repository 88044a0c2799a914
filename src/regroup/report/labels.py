"""Names beside points: none covers another or a point, and those that matter most have one in any case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regroup.report.looks import SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = 7.0
"""Of the letters, in points."""
_HEIGHT = 9.5
"""Of a line of them, in points, with what browsers add."""
_POINT = 5.0
"""Half the width of a point, in points."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """A name and the point that it belongs to.

    Args:
        x: of the point, in the units of the axes.
        y: likewise.
        name: to be written.
        important: whether it has to stand there.
    """

    x: float
    y: float
    name: str
    important: bool


def write_labels(figure: Figure, axes: Axes, labels: Sequence[Label]) -> None:
    """Write the names beside their points; those that find no place show when the pointer rests there."""
    figure.draw_without_rendering()
    unit = figure.dpi / 72
    pixel = {label: tuple(axes.transData.transform((label.x, label.y))) for label in labels}
    reach = _POINT * unit
    taken = [(x - reach, y - reach, x + reach, y + reach) for x, y in pixel.values()]
    box = axes.get_window_extent()
    frame = (box.x0 + 1, box.y0 + 1, box.x1 + 8 * unit, box.y1 + 4 * unit)
    for label in sorted(labels, key=lambda label: (not label.important, -label.y, label.x)):
        size = (_width(label.name) * unit, _HEIGHT * unit)
        for dx, dy in _places(label.important, unit):
            rectangle = _rectangle(pixel[label], size, dx, dy)
            if _inside(rectangle, frame) and not any(_overlap(rectangle, other) for other in taken):
                taken.append(rectangle)
                _write(axes, label, dx / unit, dy / unit)
                break


def _places(important: bool, unit: float) -> list[tuple[float, float]]:
    """Return where a name may begin (to the right) or end (to the left) from its point, the nearest first."""
    far = 17 if important else 5
    places = [(side * 7.0, 9.5 * step) for step in range(-far, far + 1) for side in (1, -1)]
    if important:
        places += [(side * 40.0, dy) for side, dy in places]
    places.sort(key=lambda place: (math.hypot(*place), place[0] < 0, place[1] < 0))
    return [(dx * unit, dy * unit) for dx, dy in places]


def _rectangle(point: Sequence[float], size: tuple[float, float], dx: float, dy: float) -> Box:
    left = point[0] + dx - (size[0] if dx < 0 else 0)
    bottom = point[1] + dy - size[1] / 2
    return left, bottom, left + size[0], bottom + size[1]


def _write(axes: Axes, label: Label, dx: float, dy: float) -> None:
    line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkB": 4} if abs(dy) > 9.5 else None
    note = axes.annotate(
        label.name, (label.x, label.y), (dx, dy), textcoords="offset points", fontsize=_SIZE,
        ha="left" if dx > 0 else "right", va="center", arrowprops=line,
        fontweight="bold" if label.important else "normal",
    )  # fmt: skip
    note.set_gid(f"label-{label.name}")
    note.set_in_layout(False)  # what was measured would move


def _width(name: str) -> float:
    """Return the width of a name in points, in matplotlib's own letters, which are wider than most."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=_SIZE, weight="bold")
    return text_to_path.get_text_width_height_descent(name, font, ismath=False)[0] + 3


def _inside(a: Box, b: Box) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
