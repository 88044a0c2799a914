"""A comparison as one self-contained HTML page, as JSON and as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regroup.comparison.result import Comparison, Row
from regroup.report import charts
from regroup.report.learned import learned_layers, learned_pictures
from regroup.report.table import cells


def write_report(comparison: Comparison, out: str | Path) -> Path:
    """Write `index.html`, `comparison.json` and `comparison.csv` into the directory `out`.

    The page needs no other file, no script and no network.

    Returns:
        The path of the page.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    comparison = comparison.sorted()
    comparison.save(out / "comparison.json")
    (out / "comparison.csv").write_text(comparison.csv())
    page = out / "index.html"
    temporary = page.with_name("index.html.tmp")
    temporary.write_text(render(comparison))
    temporary.replace(page)
    return page


def render(comparison: Comparison) -> str:
    """Return the page's HTML; whatever stands in names is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    comparison = comparison.sorted()
    good = [r for r in comparison.rows if not r.error]
    timed = any(r.timing for r in good)
    environment = Environment(
        loader=PackageLoader("regroup.report", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html").render(
        title=f"Grouped convolution on {comparison.settings.get('data', '?')}",
        subtitle=_subtitle(comparison),
        summary=_summary(comparison),
        seeds=max((len(r.runs) for r in good), default=0),
        rows=[_table_row(r, comparison) for r in good],
        failed=[r for r in comparison.rows if r.error],
        left=[{"strategy": r.strategy, "layers": _left(r)} for r in good if r.left],
        accuracy_macs=Markup(charts.tradeoff(comparison, "macs")),
        accuracy_time=Markup(charts.tradeoff(comparison, "time")) if timed else "",
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


def summary_lines(comparison: Comparison) -> list[str]:
    """Return the sentences that say what the table shows."""
    good = [r for r in comparison.rows if not r.error and r.accuracy is not None]
    dense = next((r for r in good if r.strategy == "dense"), None)
    if dense is None or len(good) < 2 or dense.accuracy is None:
        return []
    grouped = [r for r in good if r is not dense and r.macs < dense.macs]
    lines = []
    close = [r for r in grouped if (r.accuracy or 0) >= dense.accuracy - 1]
    if close:
        cheapest = min(close, key=lambda r: r.macs)
        reaches = "reaches" if (cheapest.accuracy or 0) >= dense.accuracy else "comes within one per cent of"
        lines.append(
            f"{cheapest.strategy} {reaches} the dense network's accuracy ({cheapest.accuracy:.2f} against "
            f"{dense.accuracy:.2f}) with 1/{dense.macs / cheapest.macs:.1f} of its MACs."
        )
    kept = [r for r in grouped if r.kept is not None]
    if kept:
        mean = sum(r.kept or 0 for r in kept) / len(kept)
        lines.append(
            f"On average the clock confirms {100 * mean:.0f} per cent of the speed-up that the MACs promise."
        )
    return lines


def _summary(comparison: Comparison) -> str:
    return " ".join(summary_lines(comparison))


def _subtitle(comparison: Comparison) -> str:
    s = comparison.settings
    return (
        f"{s.get('backbone', '?')}, {len(comparison.rows)} strategies, {s.get('epochs', '?')} epochs, "
        f"seeds {', '.join(map(str, s.get('seeds', [])))}; {comparison.machine.get('date', '')}"
    )


def _table_row(row: Row, comparison: Comparison) -> dict[str, Any]:
    timing = row.timing
    kinds = ["dense"] if row.strategy == "dense" else []
    kinds += ["front"] if row in comparison.pareto("macs") else []
    return {
        "kind": " ".join(kinds),
        "colour": charts.colours(comparison.rows)[row.strategy.partition(":")[0]],
        "cells": cells(row),
        "time_title": f"quartiles {timing.low:.3g} to {timing.high:.3g} ms" if timing else "",
        "kept_width": round(60 * min(row.kept or 0, 1.5)),
    }


def _left(row: Row) -> str:
    return "; ".join(f"{name} ({reason})" for name, reason in row.left.items())
