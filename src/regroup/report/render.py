"""A comparison as one self-contained HTML page, as JSON and as CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regroup.comparison.evidence import Evidence
from regroup.comparison.result import WAYS, Comparison, Row
from regroup.errors import ReportError
from regroup.files.disk import make_directories, write_file
from regroup.report import charts, text
from regroup.report.learned import learned_layers, learned_tiles
from regroup.report.looks import Look, family, looks
from regroup.report.summary import summary_lines
from regroup.report.table import cells, headed
from regroup.report.tiles import Tile, tile

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

_FEW = 10
_TELLING = (
    "strategy",
    "accuracy",
    "against dense",
    "MACs",
    "promised",
    "compiled",
    "its speed-up",
)
"""Rows and columns of the first screen."""

_WAYS = {"eager": "time in PyTorch", "compiled": "time with regroup.compile"}


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
    comparison = comparison.sorted()
    good = [r for r in comparison.rows if not r.error]
    evidence, found = Evidence.of(comparison), looks(r.strategy for r in comparison.rows)
    lines, ways, measure = summary_lines(comparison), _ways(good), text.measure(comparison)
    first = next(reversed(ways), "macs")
    look_of = {r.strategy: _table_row(r, found[family(r.strategy)], evidence, measure) for r in good}
    return _page().render(
        answer=lines[0] if lines else "",
        first=first,
        few=[look_of[name] for name in _few(comparison, evidence, first)],
        few_columns=headed(comparison, _TELLING),
        title=f"Grouped convolution on {comparison.settings.get('data', '?')}",
        subtitle=_subtitle(comparison),
        summary=lines[1:],
        measure=measure,
        best=text.best(comparison),
        seeds=max((len(r.runs) for r in good), default=0),
        columns=headed(comparison),
        rows=list(look_of.values()),
        failed=[r for r in comparison.rows if r.error],
        left=[{"strategy": r.strategy, "layers": _left(r)} for r in good if r.left],
        costs={"macs": "MACs", **ways},
        curves={"test_accuracy": text.measured(comparison), "train_loss": "training loss"},
        draw_tradeoff=lambda cost, shape: charts.tradeoff(comparison, cost, shape),
        draw_curves=lambda name, label, narrow: charts.curves(comparison, name, label, narrow),
        reach=_tiles([r for r in good if not _is_whole(r)], "reach", "Blues"),
        whole=[r.strategy for r in good if _is_whole(r)],
        reach_layer=next((r.reach["layer"] for r in good if r.reach.get("layer")), ""),
        correlation=_tiles(good, "correlation", "Purples"),
        correlation_layers=next((r.correlation["layers"] for r in good if r.correlation.get("layers")), ""),
        learned=[
            {"strategy": r.strategy, "layers": learned_layers(r), "pictures": learned_tiles(r)}
            for r in good
            if r.learned
        ],
        settings=[*comparison.settings.items(), *comparison.machine.items()],
    )


@cache
def _page() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("regroup.report", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"svg": Markup, "breakable": _breakable, "coded": _coded}
    return environment.get_template("page.html")


def _breakable(words: str) -> Markup:
    """Return a cell as HTML that breaks between options and before parentheses, never inside a number."""
    from markupsafe import Markup, escape

    unit = re.compile(r"(?<=\d) (?=[%a-zA-Z])|(?<=±) | (?=±)")
    return Markup(re.sub(r"(?<=[,:+])", "<wbr>", str(escape(unit.sub("\N{NO-BREAK SPACE}", words)))))


def _coded(words: str) -> Markup:
    """Return a sentence as HTML in which what stands between backquotes is code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(words))))


def _ways(rows: Sequence[Row]) -> dict[str, str]:
    """Return the ways of running that were timed, in words."""
    return {way: _WAYS[way] for way in WAYS if any(way in r.times for r in rows)}


def _is_whole(row: Row) -> bool:
    """Return whether every output of the layer depends on every input: a picture would be one colour."""
    return row.reach.get("layer_fill") == 1


def _tiles(rows: Sequence[Row], key: str, colour_map: str) -> list[Tile]:
    """Draw what the rows have as "matrix" in the dict called `key`."""
    found = [(r.strategy, getattr(r, key).get("matrix")) for r in rows]
    return [tile(name, matrix, colour_map) for name, matrix in found if matrix]


def _few(comparison: Comparison, evidence: Evidence, cost: str) -> list[str]:
    """Return the strategies that answer which to use: the fastest of the best set, the front, dense.

    None where there are no more rows than these would be.
    """
    if len(comparison.rows) <= _FEW:
        return []
    best = evidence.fastest()[0] if evidence.rows else []
    front = [row.strategy for row in comparison.pareto(cost)]
    others = sorted(comparison.rows, key=lambda row: -(row.accuracy or 0))
    names = dict.fromkeys([*best[:1], *front, "dense", *best[1:], *(row.strategy for row in others)])
    chosen = list(names)[:_FEW]
    return [row.strategy for row in comparison.rows if row.strategy in chosen and not row.error]


def _subtitle(comparison: Comparison) -> str:
    s = comparison.settings
    seeds = s.get("seeds", [])
    return (
        f"{s.get('backbone', '?')}, {len(comparison.rows)} strategies, {s.get('epochs', '?')} epochs, "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)}; {comparison.machine.get('date', '')}"
    )


def _table_row(row: Row, look: Look, evidence: Evidence, measure: str) -> dict[str, Any]:
    kinds = ["dense"] if row.strategy == "dense" else []
    kinds += ["best"] if row.strategy in evidence.best else []
    return {
        "kind": " ".join(kinds),
        "look": look,
        "cells": cells(row, evidence, measure),
        "titles": {way: f"quartiles {t.low:.3g} to {t.high:.3g} ms" for way, t in row.times.items()},
    }


def _left(row: Row) -> str:
    return "; ".join(f"{name} ({reason})" for name, reason in row.left.items())
