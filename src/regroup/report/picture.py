"""A diagram as a picture: SVG that stands alone or in a page, and PNG."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from regroup.errors import ConfigError, ReportError
from regroup.files.disk import make_directories, write_file
from regroup.report.charts import drawing
from regroup.report.looks import COLOURS, INK, SOFT
from regroup.report.shapes import Diagram, Line, Rail, Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Outline

_POINTS = 72
"""Units of a drawing to an inch, in matplotlib's SVG."""
_SHARP = 2 * _POINTS
"""Pixels to an inch in a PNG."""
_PAPER = "#ffffff"
FORMS = (".svg", ".png")
_ALONE = (
    ".regroup-drawing { background: #ffffff; max-width: 100%; height: auto } "
    "@media (prefers-color-scheme: dark) { .regroup-drawing "
    "{ background: #0d1117; --ink: #e6edf3; --soft: #a8b1bb; --faint: #3d444d; --paper: #0d1117 } }"
)
"""For a picture in a file, or among others in a notebook."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture. In a notebook it shows itself.

    Args:
        title: what it is of.
        diagram: where everything stands.
        notes: what is said below it.
    """

    title: str
    diagram: Diagram = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def svg(self) -> str:
        """As SVG for a page, whose ink it takes if that says how it is (`--ink`, `--soft`, `--paper`)."""
        return self._made[0]

    @property
    def alone(self) -> str:
        """As SVG for a file: dark where whoever looks at it has it dark, and no wider than there is room."""
        named = self.svg.replace("<svg ", '<svg class="regroup-drawing" ', 1)
        return named.replace("<defs>", f"<style>{_ALONE}</style><defs>", 1)

    @property
    def png(self) -> bytes:
        """As PNG on white."""
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[str, bytes]:
        found, out = self.diagram, io.BytesIO()
        name = re.sub(r"\W+", "-", self.title).strip("-") or "drawing"
        with drawing(found.width / _POINTS, found.height / _POINTS, name) as (figure, _):
            _paint(figure, found)
            figure.savefig(out, format="png", dpi=_SHARP, facecolor=_PAPER)
        said = html.escape(". ".join((self.title, *self.notes)))
        svg = figure.svg.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)  # type: ignore[attr-defined]
        return re.sub(r"\n\s*", "\n", svg), out.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write it as what the end of the file's name says, `.svg` or `.png`; return the path.

        Raises:
            ConfigError: the name ends in something else.
            ReportError: it cannot be written.
        """
        path = Path(path)
        check_form(path)
        data = self.png if path.suffix == ".png" else self.alone.encode()
        try:
            make_directories(path.parent)
            write_file(path, data)
        except OSError as error:
            raise ReportError(path, f"could not be written: {error.strerror or error}") from error
        return path

    def _repr_svg_(self) -> str:
        return self.alone


def check_form(path: Path) -> None:
    """Raise ConfigError if a file's name says no form of a picture."""
    if path.suffix not in FORMS:
        raise ConfigError("out", str(path), f"a name that ends in {' or '.join(FORMS)}")


def _paint(figure: Figure, found: Diagram) -> None:
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, found.width)
    axes.set_ylim(found.height, 0)
    _lines(axes, found.lines)
    for rail in found.rails:
        _rail(axes, rail)
    looks = sorted({(dot.passing, dot.radius, dot.colour) for dot in found.dots}, key=str)
    for passing, radius, colour in looks:
        alike = [d for d in found.dots if (d.passing, d.radius, d.colour) == (passing, radius, colour)]
        xs, ys = [dot.x for dot in alike], [dot.y for dot in alike]
        edge = 0.0 if passing else 1.2
        axes.scatter(
            xs, ys, s=(2 * radius) ** 2, c=_colour(colour), edgecolors=_PAPER, linewidths=edge, zorder=3
        )
    for words in found.words:
        _write(axes, words)


def _colour(number: int | None) -> str:
    return SOFT if number is None else COLOURS[number % len(COLOURS)]


def _lines(axes: Axes, lines: Iterable[Line]) -> None:
    """Draw all lines that look alike as one path."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    looks: dict[tuple[int | None, float, float], list[Line]] = {}
    for line in lines:
        looks.setdefault((line.colour, line.opacity, line.width), []).append(line)
    for (colour, opacity, width), alike in looks.items():
        points, codes = [], []
        for (x0, y0), (x1, y1), bent in ((line.start, line.end, line.bent) for line in alike):
            bend = 0.35 * (y1 - y0)
            if not bent:
                points += [(x0, y0), (x1, y1)]
                codes += [Outline.MOVETO, Outline.LINETO]
                continue
            points += [(x0, y0), (x0, y0 + bend), (x1, y1 - bend), (x1, y1)]
            codes += [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4]
        path = Outline(points, codes)
        look = {"edgecolor": _colour(colour), "alpha": opacity, "linewidth": width}
        axes.add_patch(PathPatch(path, facecolor="none", capstyle="round", **look))


def _rail(axes: Axes, rail: Rail) -> None:
    from matplotlib.patches import Circle, FancyArrowPatch, PathPatch

    look = {"edgecolor": SOFT, "linewidth": 1.5}
    axes.add_patch(PathPatch(_rounded(rail.points[:-1], 9), facecolor="none", **look))
    (x0, y), (x1, _) = rail.points[-2:]
    inwards = 1 if x1 > x0 else -1
    start = x0 + 9 * inwards
    end = x1 - inwards * (9 if rail.added else 0)
    tip = FancyArrowPatch(
        (start, y), (end, y), arrowstyle="-|>", mutation_scale=8, color=SOFT, shrinkA=0, shrinkB=0
    )
    axes.add_patch(tip)
    if rail.added:
        axes.add_patch(Circle((x1 - inwards * 2, y), 6, facecolor=_PAPER, zorder=3, **look))
        cross = {"color": SOFT, "linewidth": 1.3, "zorder": 4}
        axes.plot([x1 - inwards * 2 - 3.4, x1 - inwards * 2 + 3.4], [y, y], **cross)
        axes.plot([x1 - inwards * 2] * 2, [y - 3.4, y + 3.4], **cross)


def _rounded(points: Sequence[tuple[float, float]], radius: float) -> Outline:
    """Return a line through points with round corners, and a radius beyond the last one's corner."""
    from matplotlib.path import Path as Outline

    (x0, y0), (x1, _), (_, y2) = points
    aside = radius if x1 > x0 else -radius
    corners = [
        (x0, y0),
        (x1 - aside, y0),
        (x1, y0),
        (x1, y0 + radius),
        (x1, y2 - radius),
        (x1, y2),
        (x1 - aside, y2),
    ]
    codes = [
        Outline.MOVETO,
        Outline.LINETO,
        Outline.CURVE3,
        Outline.CURVE3,
        Outline.LINETO,
        Outline.CURVE3,
        Outline.CURVE3,
    ]
    return Outline(corners, codes)


def _write(axes: Axes, words: Words) -> None:
    anchor = {"start": "left", "middle": "center", "end": "right"}[words.anchor]
    box = {"facecolor": _PAPER, "edgecolor": "none", "pad": 1.2, "alpha": 0.88} if words.boxed else None
    axes.text(
        words.x, words.y, words.text, size=words.size, color=SOFT if words.soft else INK,
        ha=anchor, va="center_baseline", bbox=box, zorder=5,
    )  # fmt: skip
