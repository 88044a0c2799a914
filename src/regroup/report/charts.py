"""Figures of a comparison as SVG text, to be placed inside an HTML page.

Text stays text (searchable, in the page's font), nothing carries a date, and equal data gives equal SVG.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from regroup.comparison.result import Comparison, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7",
    "#a463f2", "#97bbf5", "#9c6b4e", "#5f6b6d", "#c22e5f", "#0e7c7b",
)  # fmt: skip
_COSTS = {
    "macs": "million MACs for one image",
    "eager": "milliseconds for one image, PyTorch",
    "compiled": "milliseconds for one image, regroup.compile",
}
INK, FAINT = "#24292f", "#d0d7de"


def colours(rows: Sequence[Row]) -> dict[str, str]:
    """Return a colour for each strategy name: variants of one strategy share it."""
    names = list(dict.fromkeys(_family(r) for r in sorted(rows, key=lambda r: r.strategy)))
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def tradeoff(comparison: Comparison, cost: str) -> str:
    """Draw accuracy against MACs or time: a dot a strategy, a line along the Pareto front.

    Args:
        comparison: what to draw.
        cost: "macs", "eager" or "compiled".
    """
    rows = [r for r in comparison.rows if r.accuracy is not None and (cost == "macs" or cost in r.times)]
    with drawing(10.4, 5.2, f"tradeoff-{cost}") as (figure, texts):
        axes = figure.add_subplot()
        palette = colours(comparison.rows)
        front = comparison.pareto(cost)
        xs, ys = [_x(r, cost) for r in front], [r.accuracy or 0.0 for r in front]
        axes.step(xs, ys, where="post", color=FAINT, linewidth=2, zorder=1)
        for i, row in enumerate(rows):
            x, y = _x(row, cost), row.accuracy or 0.0
            on_front = row in front
            colour = palette[_family(row)]
            if row.spread:
                axes.plot([x, x], [y - row.spread, y + row.spread], color=colour, linewidth=1, alpha=0.6)
            (dot,) = axes.plot(
                [x],
                [y],
                "o",
                color=colour,
                markersize=8 if on_front else 6,
                markeredgecolor="white",
                zorder=3,
            )
            dot.set_gid(f"dot-{cost}-{i}")
            texts[f"dot-{cost}-{i}"] = f"{row.strategy}: {y:.2f} %, {_cost_text(row, cost)}"
        axes.set_xscale("log")
        plain_log_ticks(axes)
        axes.set_xlabel(_COSTS[cost])
        axes.set_ylabel("test accuracy, per cent")
        axes.margins(x=0.1, y=0.08)
        _label_dots(figure, axes, [(_x(r, cost), r.accuracy or 0.0, r.strategy) for r in rows])
    return figure.svg  # type: ignore[attr-defined]


def curves(comparison: Comparison, name: str, label: str) -> str:
    """Draw one training curve (mean over the seeds) for each strategy.

    Args:
        comparison: what to draw.
        name: of the curve, such as "test_accuracy".
        label: of the vertical axis.
    """
    from matplotlib.ticker import MaxNLocator

    with drawing(7.4, 4.2, f"curves-{name}") as (figure, texts):
        axes = figure.add_subplot()
        palette = colours(comparison.rows)
        ends = []
        for i, row in enumerate(comparison.rows):
            series = [r.curves[name] for r in row.runs if r.curves.get(name)]
            if not series:
                continue
            mean = [sum(v) / len(v) for v in zip(*series, strict=False)]
            (line,) = axes.plot(
                range(1, len(mean) + 1), mean, color=palette[_family(row)], linewidth=1.4, alpha=0.85
            )
            line.set_gid(f"{name}-{i}")
            texts[f"{name}-{i}"] = f"{row.strategy}: {mean[-1]:.4g} at the end"
            ends.append((len(mean), mean[-1], _family(row)))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        if name.endswith("loss"):
            axes.set_yscale("log")
        elif ends:  # the first epochs are far below; what differs is the end
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, min(last for _, last, _ in ends) - 12), min(high, 100.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, palette, {family for _, _, family in ends})
    return figure.svg  # type: ignore[attr-defined]


def matrices(rows: Sequence[Row], key: str, colour_map: str) -> str:
    """Draw a small square picture for each row: outputs downwards, inputs to the right.

    Args:
        rows: with a "matrix" in the dict called `key`.
        key: "reach" or "correlation".
        colour_map: of matplotlib.
    """
    rows = [r for r in rows if getattr(r, key).get("matrix")]
    columns = 8
    lines = max(1, math.ceil(len(rows) / columns))
    with drawing(10.4, 1.5 * lines + 0.1, f"matrices-{key}") as (figure, _):
        for i, row in enumerate(rows):
            axes = figure.add_subplot(lines, columns, i + 1)
            axes.imshow(getattr(row, key)["matrix"], cmap=colour_map, vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(_wrapped(row.strategy), fontsize=6.5, pad=3)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(True)
                spine.set_color(FAINT)
    return figure.svg  # type: ignore[attr-defined]


@contextmanager
def drawing(width: float, height: float, salt: str) -> Iterator[tuple[Figure, dict[str, str]]]:
    """Give a figure and a dict for hover texts by element id; leaves the SVG as `figure.svg`."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "axes.grid": False,
    }
    texts: dict[str, str] = {}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, texts
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for element, text in texts.items():
        svg = svg.replace(f'<g id="{element}">', f'<g id="{element}"><title>{html.escape(text)}</title>')
    figure.svg = svg  # type: ignore[attr-defined]


def _label_dots(figure: Figure, axes: Axes, dots: list[tuple[float, float, str]]) -> None:
    """Write each name beside its dot, at the first place where it covers no other name or dot."""
    figure.draw_without_rendering()
    pixel = [axes.transData.transform((x, y)) for x, y, _ in dots]
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in pixel]
    box = axes.get_window_extent()
    places = [(dx, dy) for dy in (0, 9, -9, 18, -18, 27, -27, 36, -36, 45, -45) for dx in (8, -8)]
    for (px, py), (x, y, name) in sorted(zip(pixel, dots, strict=True), key=lambda d: -d[0][1]):
        width, height = 5.3 * len(name) * figure.dpi / 100, 9.0 * figure.dpi / 100
        best = None
        for dx, dy in places:
            left = px + dx if dx > 0 else px + dx - width
            rect = (left, py + dy - height / 2, left + width, py + dy + height / 2)
            inside = rect[0] > box.x0 - 10 and rect[2] < box.x1 + 10 and rect[1] > box.y0 and rect[3] < box.y1
            if inside and not any(_overlap(rect, other) for other in taken):
                best = (dx, dy, rect)
                break
        if best is None:
            continue  # its name still shows when the pointer rests on the dot
        dx, dy, rect = best
        taken.append(rect)
        scale = 72 / figure.dpi
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6} if abs(dy) > 9 else None
        axes.annotate(
            name, (x, y), (dx * scale, dy * scale), textcoords="offset points", fontsize=7,
            ha="left" if dx > 0 else "right", va="center", arrowprops=line,
        )  # fmt: skip


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(axes: Axes, palette: dict[str, str], used: set[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=name) for name, colour in palette.items() if name in used]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7.5)


def plain_log_ticks(axes: Axes) -> None:
    """Label a logarithmic horizontal axis with 1, 2, 5, 10, ..."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _x(row: Row, cost: str) -> float:
    if cost == "macs":
        return row.macs / 1e6
    return row.times[cost].median


def _cost_text(row: Row, cost: str) -> str:
    return f"{row.macs / 1e6:.3g} M MACs" if cost == "macs" else f"{_x(row, cost):.3g} ms an image"


def _family(row: Row) -> str:
    return row.strategy.partition(":")[0]


def _wrapped(label: str) -> str:
    name, _, rest = label.partition(":")
    return f"{name}\n{rest[:24]}" if rest else f"{name}\n"
