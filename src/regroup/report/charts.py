"""Figures of a comparison as SVG text, to be placed inside an HTML page.

Text stays text (searchable, in the page's font), nothing carries a date, and equal data gives equal SVG. Each
figure comes in several shapes: wide, narrow for telephones, or to stand beside a table. Ink follows the page,
where that says how it is.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from regroup.comparison.result import Comparison, Row
from regroup.report import text
from regroup.report.labels import Label, write_labels
from regroup.report.looks import FAINT, INK, SOFT, Look, family, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COSTS = {
    "macs": "million MACs for one image",
    "eager": "milliseconds for one image, PyTorch",
    "compiled": "milliseconds for one image, regroup.compile",
}
_INKS = {INK: "ink", FAINT: "faint", SOFT: "soft", "#ffffff": "paper"}
"""Colours that a page may set by its variables of these names."""


Shape = Literal["wide", "beside", "narrow"]
_SHAPES: dict[str, tuple[float, float]] = {"wide": (10.4, 5.6), "beside": (5.6, 4.6), "narrow": (3.7, 5.0)}
"""Width and height in inches."""


def tradeoff(comparison: Comparison, cost: str, shape: Shape = "wide") -> str:
    """Draw accuracy against MACs or time: a point a strategy, a line along the Pareto front.

    Args:
        comparison: what to draw.
        cost: "macs", "eager" or "compiled".
        shape: wide; or narrow, for a telephone, or beside a table: then only the names of the front are
            written.
    """
    rows = [r for r in comparison.rows if r.accuracy is not None and (cost == "macs" or cost in r.times)]
    few = shape != "wide"
    with drawing(*_SHAPES[shape], f"tradeoff-{cost}-{shape}") as (figure, texts):
        axes = figure.add_subplot()
        found = looks(row.strategy for row in comparison.rows)
        front = comparison.pareto(cost)
        xs, ys = [_x(r, cost) for r in front], [r.accuracy or 0.0 for r in front]
        axes.step(xs, ys, where="post", color=FAINT, linewidth=2, zorder=1)
        for i, row in enumerate(rows):
            name = f"dot-{cost}-{i}"
            _draw_point(axes, row, cost, found[family(row.strategy)], row in front, name)
            texts[name] = f"{row.strategy}: {row.accuracy:.2f} %, {_cost_text(row, cost)}"
        axes.set_xscale("log")
        axes.margins(x=0.1, y=0.08)
        plain_log_ticks(axes, 5 if few else 9)
        axes.set_xlabel(_COSTS[cost])
        axes.set_ylabel(text.measured(comparison))
        labels = [Label(_x(r, cost), r.accuracy or 0.0, r.strategy, r in front) for r in rows]
        write_labels(figure, axes, [label for label in labels if label.important or not few])
    return figure.svg  # type: ignore[attr-defined]


def _draw_point(axes: Axes, row: Row, cost: str, look: Look, on_front: bool, name: str) -> None:
    x, y = _x(row, cost), row.accuracy or 0.0
    if row.spread:
        axes.plot([x, x], [y - row.spread, y + row.spread], color=look.colour, linewidth=1, alpha=0.6)
    (point,) = axes.plot(
        [x], [y], look.shape, color=look.colour, markersize=8 if on_front else 6,
        markeredgecolor="#ffffff", markeredgewidth=0.7, zorder=3,
    )  # fmt: skip
    point.set_gid(name)


def curves(comparison: Comparison, name: str, label: str, narrow: bool = False) -> str:
    """Draw one training curve (mean over the seeds) for each strategy.

    Args:
        comparison: what to draw.
        name: of the curve, such as "test_accuracy".
        label: of the vertical axis.
        narrow: for a telephone; then the legend stands below.
    """
    from matplotlib.ticker import MaxNLocator

    found = looks(row.strategy for row in comparison.rows)
    size = (3.7, 3.2 + 0.09 * len(found)) if narrow else (7.4, 4.4)
    with drawing(*size, f"curves-{name}{'-narrow' * narrow}") as (figure, texts):
        axes = figure.add_subplot()
        ends = []
        for i, row in enumerate(comparison.rows):
            series = [r.curves[name] for r in row.runs if r.curves.get(name)]
            if not series:
                continue
            mean = [sum(v) / len(v) for v in zip(*series, strict=False)]
            look = found[family(row.strategy)]
            (line,) = axes.plot(
                range(1, len(mean) + 1), mean, look.shape + "-", color=look.colour, linewidth=1.2,
                markersize=4, markevery=[-1], alpha=0.85,
            )  # fmt: skip
            line.set_gid(f"{name}-{i}")
            texts[f"{name}-{i}"] = f"{row.strategy}: {mean[-1]:.4g} at the end"
            ends.append((mean[-1], family(row.strategy)))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        if name.endswith("loss"):
            axes.set_yscale("log")
        elif ends:  # the first epochs are far below; what differs is the end
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, min(last for last, _ in ends) - 12), min(high, 100.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, {name: found[name] for name in found if name in {n for _, n in ends}}, narrow)
    return figure.svg  # type: ignore[attr-defined]


def _legend(figure: Figure, used: dict[str, Look], narrow: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.colour, marker=look.shape, markersize=5, label=name)
        for name, look in used.items()
    ]
    place = "outside lower center" if narrow else "outside right center"
    if handles:
        figure.legend(handles=handles, loc=place, ncols=2 if narrow else 1, frameon=False, fontsize=7.5)


@contextmanager
def drawing(width: float, height: float, name: str) -> Iterator[tuple[Figure, dict[str, str]]]:
    """Give a figure and a dict for hover texts by element id; leaves the SVG as `figure.svg`.

    Args:
        width: in inches.
        height: in inches.
        name: of the figure, with which all its ids begin.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "text.color": INK,
        "axes.grid": False,
    }
    texts: dict[str, str] = {}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, texts
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    figure.svg = _for_a_page(out.getvalue(), name, texts)  # type: ignore[attr-defined]


def _for_a_page(svg: str, name: str, texts: dict[str, str]) -> str:
    """Return a figure as a part of a page: own ids, the page's ink, points with titles."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for element, words in texts.items():
        svg = svg.replace(f'<g id="{element}">', f'<g id="{element}"><title>{html.escape(words)}</title>')
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for colour, variable in _INKS.items():
        svg = re.sub(rf"((?:fill|stroke): ){colour}", rf"\1var(--{variable}, {colour})", svg)
    return svg


def plain_log_ticks(axes: Axes, most: int = 9) -> None:
    """Label a logarithmic horizontal axis with 1, 2, 5, 10, ..., or evenly where it is short.

    Args:
        axes: with everything drawn that counts for its limits.
        most: labels that find room.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 3:
        ticks = [t for t in MaxNLocator(most // 2 + 1).tick_values(low, high) if low <= t <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _x(row: Row, cost: str) -> float:
    if cost == "macs":
        return row.macs / 1e6
    return row.times[cost].median


def _cost_text(row: Row, cost: str) -> str:
    return f"{row.macs / 1e6:.3g} M MACs" if cost == "macs" else f"{_x(row, cost):.3g} ms an image"
