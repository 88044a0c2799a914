"""A comparison as one self-contained HTML page, as JSON and as CSV."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regroup.comparison.evidence import Evidence
from regroup.comparison.result import WAYS, Comparison, Row
from regroup.errors import ReportError
from regroup.files.disk import make_directories, write_file
from regroup.report import charts
from regroup.report.learned import learned_layers, learned_pictures
from regroup.report.summary import summary_lines
from regroup.report.table import COLUMNS, cells

if TYPE_CHECKING:
    from jinja2 import Template


def write_report(comparison: Comparison, out: str | Path) -> Path:
    """Write `index.html`, `comparison.json` and `comparison.csv` into the directory `out`.

    The page needs no other file, no script and no network. Each file is the old or the new one, never half.

    Returns:
        The path of the page.

    Raises:
        ReportError: one cannot be written.
    """
    out = Path(out)
    comparison = comparison.sorted()
    page = out / "index.html"
    path = out / "comparison.json"
    try:
        make_directories(out)
        comparison.save(path)
        for path, text in ((out / "comparison.csv", comparison.csv()), (page, render(comparison))):
            write_file(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ReportError(path, f"could not be written: {error.strerror or error}") from error
    return page


def render(comparison: Comparison) -> str:
    """Return the page's HTML; whatever stands in names is escaped."""
    from markupsafe import Markup

    comparison = comparison.sorted()
    good = [r for r in comparison.rows if not r.error]
    evidence = Evidence.of(comparison)
    ways = [way for way in WAYS if any(way in r.times for r in good)]
    return _page().render(
        title=f"Grouped convolution on {comparison.settings.get('data', '?')}",
        subtitle=_subtitle(comparison),
        summary=_summary(comparison),
        seeds=max((len(r.runs) for r in good), default=0),
        columns=COLUMNS,
        rows=[_table_row(r, comparison, evidence) for r in good],
        failed=[r for r in comparison.rows if r.error],
        left=[{"strategy": r.strategy, "layers": _left(r)} for r in good if r.left],
        accuracy_macs=Markup(charts.tradeoff(comparison, "macs")),
        accuracy_time={way: Markup(charts.tradeoff(comparison, way)) for way in ways},
        curves_accuracy=Markup(charts.curves(comparison, "test_accuracy", "test accuracy, per cent")),
        curves_loss=Markup(charts.curves(comparison, "train_loss", "training loss")),
        reach=Markup(charts.matrices(good, "reach", "Blues")),
        reach_layer=next((r.reach["layer"] for r in good if r.reach.get("layer")), ""),
        correlation=Markup(charts.matrices(good, "correlation", "Purples"))
        if any(r.correlation.get("matrix") for r in good)
        else "",
        correlation_layers=next((r.correlation["layers"] for r in good if r.correlation.get("layers")), ""),
        learned=[
            {"strategy": r.strategy, "layers": learned_layers(r), "pictures": Markup(learned_pictures(r))}
            for r in good
            if r.learned
        ],
        settings=[*comparison.settings.items(), *comparison.machine.items()],
    )


@cache
def _page() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("regroup.report", ".")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("page.html")


def _summary(comparison: Comparison) -> str:
    return " ".join(summary_lines(comparison))


def _subtitle(comparison: Comparison) -> str:
    s = comparison.settings
    return (
        f"{s.get('backbone', '?')}, {len(comparison.rows)} strategies, {s.get('epochs', '?')} epochs, "
        f"seeds {', '.join(map(str, s.get('seeds', [])))}; {comparison.machine.get('date', '')}"
    )


def _table_row(row: Row, comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    kinds = ["dense"] if row.strategy == "dense" else []
    kinds += ["best"] if row.strategy in evidence.best else []
    return {
        "kind": " ".join(kinds),
        "colour": charts.colours(comparison.rows)[row.strategy.partition(":")[0]],
        "cells": cells(row, evidence),
        "titles": {way: f"quartiles {t.low:.3g} to {t.high:.3g} ms" for way, t in row.times.items()},
    }


def _left(row: Row) -> str:
    return "; ".join(f"{name} ({reason})" for name, reason in row.left.items())
