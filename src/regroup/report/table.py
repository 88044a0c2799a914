"""The comparison's table in words: the same cells in the terminal, in the README and on the page."""

from __future__ import annotations

from collections.abc import Iterable

from regroup.comparison.evidence import NOTHING, Evidence
from regroup.comparison.result import Comparison, Row
from regroup.report import text


def cells(row: Row, evidence: Evidence = NOTHING, measure: str = "accuracy") -> dict[str, str]:
    """Return what one row shows, by the name of its column, in the order of the columns.

    Args:
        row: of a comparison.
        evidence: of that comparison.
        measure: what the accuracies are, by which their column is called.
    """
    return {
        "strategy": row.strategy,
        "params": text.count(row.parameters),
        "MACs": text.count(row.macs),
        measure: text.accuracy(row.accuracy, row.spread),
        "interval": _interval(row, evidence),
        "against dense": _against_dense(row, evidence),
        "best set": "yes" if row.strategy in evidence.best else "",
        "reach": text.percent(row.reach.get("layer_fill")),
        "to mix": _depth(row),
        "promised": text.times(row.promised),
        "eager": _time(row, "eager"),
        "speed-up": _speedup(row, "eager"),
        "compiled": _time(row, "compiled"),
        "its speed-up": _speedup(row, "compiled"),
    }


def _interval(row: Row, evidence: Evidence) -> str:
    if row.strategy not in evidence.intervals:
        return ""
    low, high = evidence.intervals[row.strategy]
    return f"{100 * low:.1f} .. {100 * high:.1f}"


def _against_dense(row: Row, evidence: Evidence) -> str:
    """Return the difference in points and its interval; and the verdict, where there is one."""
    found = evidence.against_dense.get(row.strategy)
    if found is None:
        return ""
    verdict = evidence.verdict(row.strategy)
    said = "" if verdict == "no difference shown" else f"{verdict} "
    return f"{said}{100 * found.value:+.1f} ({100 * found.low:+.1f} .. {100 * found.high:+.1f})"


def _time(row: Row, way: str) -> str:
    """Return a time; with its spread where that is more than a tenth, and ? where it cannot be trusted."""
    if way not in row.times:
        return ""
    time = row.times[way]
    spread = f" ±{100 * time.spread / 2:.0f} %" if time.spread > 0.1 else ""
    return f"{text.milliseconds(time.median)}{spread}{' ?' if time.verdict == 'unusable' else ''}"


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


def headed(comparison: Comparison, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return what each column of a comparison is, by its name: the task's measure instead of accuracy.

    Args:
        comparison: of a task.
        names: of the columns; None: all.
    """
    measure = text.measure(comparison)
    chosen = MEANINGS if names is None else names
    return {measure if name == "accuracy" else name: MEANINGS[name] for name in chosen}


COLUMNS = tuple(cells(Row("")))
"""Names of the columns."""

MEANINGS = {
    "strategy": "bold: of the best set",
    "params": "of the whole network",
    "MACs": "multiply-adds an image",
    "accuracy": "on the test images",
    "interval": "of the accuracy, per cent",
    "against dense": "points on the same images",
    "best set": "may be the most accurate",
    "reach": "inputs that an output of one layer depends on",
    "to mix": "layers until all channels depend on all",
    "promised": "dense MACs over its own",
    "eager": "PyTorch, an image",
    "speed-up": "over dense (share of the promise)",
    "compiled": "our engine, an image",
    "its speed-up": "over dense compiled (share of the promise)",
}
"""What each column is, in a line."""
