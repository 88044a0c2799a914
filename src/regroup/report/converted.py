"""A conversion as one self-contained HTML page, in the look of a comparison's."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from regroup.conversion.options import DENSE
from regroup.profiling.text import count, milliseconds, percent

if TYPE_CHECKING:
    from jinja2 import Template

    from regroup.conversion.convert import Conversion


def figures(found: Conversion) -> dict[str, Any]:
    """Return what a conversion found, as JSON values."""
    return {
        "budget": found.budget,
        "dense": {
            "seconds": found.whole.seconds,
            "macs": found.whole.macs,
            "parameters": found.whole.parameters,
        },
        "macs": found.macs,
        "parameters": found.parameters,
        "foreseen": found.foreseen,
        "share": None if found.share is None else vars(found.share),
        "stages": [vars(stage) for stage in found.stages],
        "options": found.options,
        "errors": {layer.name: layer.error for layer in found.layers},
        "left": found.left,
        "table": {n: {o: vars(cell) for o, cell in cells.items()} for n, cells in found.table.items()},
    }


def page(found: Conversion, name: str, machine: str) -> str:
    """Return the page; whatever stands in names is escaped.

    Args:
        found: the conversion.
        name: of the network.
        machine: on which it was timed.
    """
    return _template().render(
        name=name, machine=machine, stages=_stages(found), layers=_layers(found), left=found.left,
        before_and_after=_before_and_after(found), budget=found.budget, pays=found.pays, late=found.late,
    )  # fmt: skip


def _before_and_after(found: Conversion) -> list[tuple[str, str, str, str]]:
    share = found.foreseen if found.share is None else found.share.median
    old, new = found.whole, share * found.whole.seconds
    return [
        ("time on the engine", milliseconds(1e3 * old.seconds), milliseconds(1e3 * new), percent(share)),
        ("multiply-adds", count(old.macs), count(found.macs), percent(found.macs / old.macs)),
        (
            "parameters",
            count(old.parameters),
            count(found.parameters),
            percent(found.parameters / old.parameters),
        ),
    ]


def _stages(found: Conversion) -> list[tuple[str, str, str]]:
    return [
        (s.name, "" if s.top1 is None else f"{s.top1:.2f} %", f"{s.divergence:.4f}") for s in found.stages
    ]


def _layers(found: Conversion) -> list[dict[str, Any]]:
    """Return a row for each layer: what it is, its damage, and its time against the dense layer's."""
    worst = max((found.table[n][o].damage for n, o in found.options.items()), default=0.0) or 1.0
    rows = []
    for name, option in found.options.items():
        cell, dense = found.table[name][option], found.table[name][DENSE]
        row: dict[str, Any] = {
            "name": name,
            "option": option,
            "kept": option == DENSE,
            "damage": f"{cell.damage:.4f}",
        }
        row["bar"] = round(100 * max(cell.damage, 0) / worst, 1)
        row["time"] = percent(cell.seconds / dense.seconds)
        rows.append(row)
    return rows


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("regroup.report", ".")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(
        "converted.html"
    )
