"""The comparison's table in words: the same cells in the terminal, in the README and on the page."""

from __future__ import annotations

from regroup.comparison.result import Row
from regroup.report import text


def cells(row: Row) -> dict[str, str]:
    """Return what one row shows, by the name of its column, in the order of the columns."""
    timing = row.timing
    return {
        "strategy": row.strategy,
        "params": text.count(row.parameters),
        "MACs": text.count(row.macs),
        "time/image": text.milliseconds(timing.median if timing else None),
        "accuracy": text.accuracy(row.accuracy, row.spread),
        "reach": text.percent(row.reach.get("layer_fill")),
        "to mix": _depth(row),
        "promised": text.times(row.promised),
        "measured": text.times(row.measured),
        "kept": text.percent(row.kept),
    }


def _depth(row: Row) -> str:
    """Return how many replaced layers it takes until all channels are mixed; 'never' if they are not."""
    if "mixing_depth" not in row.reach:
        return ""
    depth = row.reach["mixing_depth"]
    return "never" if depth is None else str(depth)


COLUMNS = tuple(cells(Row("")))
"""Names of the columns."""
