"""The comparison's table in words: the same cells in the terminal, in the README and on the page."""

from __future__ import annotations

from regroup.comparison.result import Row
from regroup.report import text


def cells(row: Row) -> dict[str, str]:
    """Return what one row shows, by the name of its column, in the order of the columns."""
    return {
        "strategy": row.strategy,
        "params": text.count(row.parameters),
        "MACs": text.count(row.macs),
        "accuracy": text.accuracy(row.accuracy, row.spread),
        "reach": text.percent(row.reach.get("layer_fill")),
        "to mix": _depth(row),
        "promised": text.times(row.promised),
        "eager": _time(row, "eager"),
        "speed-up": _speedup(row, "eager"),
        "compiled": _time(row, "compiled"),
        "its speed-up": _speedup(row, "compiled"),
    }


def _time(row: Row, way: str) -> str:
    return text.milliseconds(row.times[way].median if way in row.times else None)


def _speedup(row: Row, way: str) -> str:
    """Return the speed-up over the dense network, and how much of the promise that is."""
    measured, kept = row.measured(way), row.kept(way)
    return "" if kept is None else f"{text.times(measured)} ({text.percent(kept)})"


def _depth(row: Row) -> str:
    """Return how many replaced layers it takes until all channels are mixed; 'never' if they are not."""
    if "mixing_depth" not in row.reach:
        return ""
    depth = row.reach["mixing_depth"]
    return "never" if depth is None else str(depth)


COLUMNS = tuple(cells(Row("")))
"""Names of the columns."""
