"""Tables for the terminal: coloured where there is one, plain and complete in a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from regroup.comparison.result import Comparison
from regroup.report.table import COLUMNS, cells

if TYPE_CHECKING:
    from rich.table import Table


def comparison_table(comparison: Comparison) -> Table:
    """Return the rows of a comparison, by rising MACs."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "strategy" else "right", no_wrap=True)
    front = comparison.pareto("macs")
    for row in comparison.rows:
        if not row.error:
            table.add_row(*cells(row).values(), style="bold" if row in front else None)
    return table


def show(table: Table) -> None:
    """Print a table as wide as the terminal, or as wide as it needs to be when it goes to a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000  # a table is as wide as its cells, or this
    console = Console(width=width, soft_wrap=width is not None, markup=False, emoji=False)
    console.print(table)
