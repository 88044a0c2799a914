"""A picture and a file of speed-ups over numbers of groups, promised and measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from regroup.errors import ReportError
from regroup.files.disk import make_directories, write_file
from regroup.report.charts import drawing, plain_log_ticks
from regroup.report.looks import COLOURS, FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from regroup.profiling.groups import Curve, Speeds

_COLUMNS, _MOST = 3, 60
"""Pictures beside each other, and layers that are drawn."""


def picture(speeds: Speeds, way: str) -> str:
    """Draw, as SVG, the speed-up over the dense layer in PyTorch: a small picture for each layer.

    Args:
        speeds: what was measured.
        way: "forward" or "training".
    """
    shown = speeds.layers[:_MOST]
    columns = min(_COLUMNS, max(len(shown), 1))
    lines = math.ceil(len(shown) / columns) or 1
    with drawing(3.5 * columns + 0.6, 2.7 * lines + 0.4, f"speeds-{way}") as (figure, texts):
        for i, curve in enumerate(shown):
            axes = figure.add_subplot(lines, columns, i + 1)
            _draw(axes, curve, way, i, texts)
            if i == 0:
                axes.legend(frameon=False, fontsize=7.5)
    return figure.svg  # type: ignore[attr-defined]


def _draw(axes: Axes, curve: Curve, way: str, number: int, texts: dict[str, str]) -> None:
    from matplotlib.ticker import StrMethodFormatter

    groups = [point.groups for point in curve.points]
    axes.plot(groups, [point.promised for point in curve.points], color=FAINT, linewidth=2, label="promised")
    for who, colour in (("PyTorch", COLOURS[1]), ("regroup", COLOURS[0])):
        measured = [point.measured[way][who] for point in curve.points]
        (line,) = axes.plot(groups, measured, "o-", color=colour, markersize=4, linewidth=1.4, label=who)
        gid = f"{way}-{number}-{who}"
        line.set_gid(gid)
        texts[gid] = f"{who}: " + ", ".join(
            f"{g} groups {m:.2f}x" for g, m in zip(groups, measured, strict=True)
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log_ticks(axes)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}x"))
    axes.set_title(str(curve.layer), fontsize=8)
    axes.set_xlabel("groups")
    axes.set_ylabel(f"speed-up, {way}")


def write_speeds(speeds: Speeds, out: str | Path) -> Path:
    """Write `speeds.json`, `forward.svg` and `training.svg` into a directory; return the path of the data.

    Raises:
        ReportError: one cannot be written.
    """
    from regroup.profiling.groups import WAYS

    path = data = Path(out) / "speeds.json"
    try:
        make_directories(Path(out))
        write_file(data, (json.dumps(speeds.to_dict(), indent=1) + "\n").encode())
        for way in WAYS:
            path = Path(out) / f"{way}.svg"
            write_file(path, picture(speeds, way).encode())
    except OSError as error:
        raise ReportError(path, f"could not be written: {error.strerror or error}") from error
    return data
