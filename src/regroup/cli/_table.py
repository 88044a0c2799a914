"""Tables and sentences for the terminal: as wide as it is, and never a number in two parts."""

from __future__ import annotations

import copy
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from regroup.comparison.evidence import Evidence
from regroup.comparison.result import Comparison
from regroup.errors import printable
from regroup.report.table import cells, headed

if TYPE_CHECKING:
    from rich.table import Column, Table

_WIDEST = 1_000_000

_PROSE = 24
"""The least width of a column of prose."""

_BETWEEN = 2
"""Blanks between columns."""


def comparison_table(comparison: Comparison) -> Table:
    """Return the rows of a comparison, by rising MACs; those of the best set are bold.

    Columns in which nothing stands, such as times that were not measured, are left out.
    """
    from rich.table import Table

    evidence = Evidence.of(comparison)
    rows = [(row, list(cells(row, evidence).values())) for row in comparison.rows if not row.error]
    names = list(headed(comparison))
    filled = [i for i in range(len(names)) if i == 0 or any(found[i] for _, found in rows)]
    table = Table(box=None, pad_edge=False)
    for i in filled:
        table.add_column(names[i], justify="right" if i else "left", no_wrap=True)
    for row, found in rows:
        style = "bold" if row.strategy in evidence.best else None
        table.add_row(*(printable(found[i]) for i in filled), style=style)
    return table


def show(table: Table, first_out: Sequence[str] = ()) -> None:
    """Print a table whole, or, in a terminal that is too narrow, the columns that fit, and name the others.

    No cell is cut: a column is there, or it is not; the first one always is. Only columns of prose, which are
    those that may be wrapped, become narrower, with lines that end between words.

    Args:
        table: whose columns have headers.
        first_out: headers of the columns that are left out first; then it goes on from the right.
    """
    from rich.console import Console

    width = terminal_width()
    left_out = [] if width is None else _fit(table, first_out, width)
    shown = _only(table, [column for column in table.columns if column not in left_out])
    least = _narrowest(shown)
    wide = _WIDEST if width is None else max(width, least)
    Console(width=wide, soft_wrap=True, markup=False, emoji=False, highlight=False).print(shown)
    if left_out:
        names = ", ".join(str(column.header) for column in left_out)
        say(f"left out, for the terminal is {width} wide: {names}. A pipe or --json has them.")


def say(text: str) -> None:
    """Print sentences; in a terminal, lines end between words."""
    print(fitted(text, terminal_width()))


def fitted(text: str, width: int | None) -> str:
    """Return a text whose lines end between words, at most at `width`; what was indented stays so."""
    if width is None:
        return text
    lines = []
    for line in text.split("\n"):
        indent = " " * min(len(line) - len(line.lstrip()), width // 2)
        lines.append(
            textwrap.fill(
                line.strip(),
                width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return "\n".join(lines)


def terminal_width() -> int | None:
    """Return how many columns the terminal has; None where output goes elsewhere, and may be of any width."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else None


def _fit(table: Table, first_out: Sequence[str], width: int) -> list[Column]:
    """Return the columns without which a table fits into `width`."""
    ranked = {name: rank for rank, name in enumerate(first_out)}
    columns = list(enumerate(table.columns))[1:]
    columns.sort(key=lambda each: (ranked.get(str(each[1].header), len(ranked)), -each[0]))
    order, left_out = [column for _, column in columns], []
    wide = {id(column): _narrowest(_only(table, [column])) + _BETWEEN for column in table.columns}
    needed = sum(wide.values()) - _BETWEEN
    while order and needed > width:
        left_out.append(order.pop(0))
        needed -= wide[id(left_out[-1])]
    return [column for column in table.columns if column in left_out]


def _only(table: Table, columns: list[Column], prose: int | None = None) -> Table:
    """Return a table of some of its columns; those of prose with this width."""
    shown = copy.copy(table)
    shown.columns = [
        replace(column, _index=i, width=column.width if column.no_wrap else prose)
        for i, column in enumerate(columns)
    ]
    return shown


def _narrowest(table: Table) -> int:
    """Return the least width of a table of which no cell is cut."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(width=_WIDEST, markup=False, emoji=False)
    return Measurement.get(console, console.options, _only(table, table.columns, _PROSE)).maximum
