"""List the groupings: form, kind, options with their ranges, paper; or show the page of one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from regroup.strategies import Strategy
    from regroup.strategies.described import Description


@dataclass(frozen=True)
class Options:
    """Which strategies to list, and how."""

    pattern: tyro.conf.Positional[str] = "*"
    """Name of one, for its page; or shell pattern of names, where a bare word matches anywhere."""
    plain: bool = False
    """Print the names alone, one a line."""
    json: bool = False
    """Print all that is known of each strategy as JSON."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further strategies."""


def run(options: Options) -> int:
    """Print the strategies that match."""
    from regroup.cli._table import say, show
    from regroup.loading.plugins import load_plugins
    from regroup.strategies import strategies
    from regroup.strategies.described import describe

    load_plugins(options.plugin)
    chosen = options.pattern in strategies
    names = [options.pattern] if chosen else strategies.matching(options.pattern)
    if options.plain:
        print("\n".join(names))
        return 0
    found = [describe(strategies[name]) for name in names]
    if options.json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=1))
    elif chosen:
        for line in page(found[0], strategies[options.pattern].variants()):
            say(line)
    else:
        show(strategy_table(found), ("options", "paper"))
        say(f"\n{len(found)} strategies, with options as they are by default; MACs: share of the dense ones.")
        say("`regroup strategies NAME` shows the page of one.")
    return 0


def strategy_table(found: list[Description]) -> Table:
    """Return a row for each strategy; options with the values that they have where nothing is said."""
    from rich.table import Table

    from regroup.errors import printable
    from regroup.report import text

    table = Table(box=None, pad_edge=False)
    for name in ("strategy", "kind", "MACs", "paper", "form", "options"):
        table.add_column(name, no_wrap=name != "form", justify="right" if name == "MACs" else "left")
    for each in found:
        options = ",".join(f"{option.name}={option.default}" for option in each.options)
        cells = each.name, each.kind, text.percent(each.macs), each.paper, each.form, options
        table.add_row(*map(printable, cells))
    return table


def page(found: Description, variants: Sequence[Strategy]) -> Iterator[str]:
    """Yield the lines that say all of one strategy, and how its variants are compared."""
    from regroup.errors import printable
    from regroup.report import text
    from regroup.strategies.described import EXAMPLE

    yield f"{found.name}: {found.form}"
    yield ""
    for paragraph in found.text.split("\n\n"):
        yield " ".join(paragraph.split())
        yield ""
    yield f"{found.kind}; {text.percent(found.macs)} of the dense MACs on {EXAMPLE}; {printable(found.paper)}"
    yield ""
    for option in found.options:
        yield f"  {option.name} ({option.type}, {option.default} if not given): {option.allowed}"
        yield f"      {option.text}"
    yield "" if found.options else "It has no options."
    yield f"regroup compare --strategies {' '.join(variant.label for variant in variants)}"
