"""Tables for the terminal: coloured where there is one, plain and complete in a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from regroup.comparison.result import Comparison
from regroup.report import text
from regroup.report.render import depth_text

if TYPE_CHECKING:
    from rich.table import Table


def comparison_table(comparison: Comparison) -> Table:
    """Return the rows of a comparison, by rising MACs."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    names = ("params", "MACs", "time/image", "accuracy", "reach", "to mix", "promised", "measured", "kept")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    front = comparison.pareto("macs")
    for row in comparison.rows:
        if not row.error:
            table.add_row(
                row.strategy,
                text.count(row.parameters),
                text.count(row.macs),
                text.milliseconds(row.timing.median if row.timing else None),
                text.accuracy(row.accuracy, row.spread),
                text.percent(row.reach.get("layer_fill")),
                depth_text(row),
                text.times(row.promised),
                text.times(row.measured),
                text.percent(row.kept),
                style="bold" if row in front else None,
            )
    return table


def show(table: Table) -> None:
    """Print a table as wide as the terminal, or as wide as it needs to be when it goes to a pipe."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty())
    console.print(table)
