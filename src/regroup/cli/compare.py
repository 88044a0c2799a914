"""Train one network with every grouping and report what each costs and gains: the main job."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from regroup.comparison.settings import CompareConfig


@dataclass(frozen=True)
class Options(CompareConfig):
    """Without options: every grouping in a small ResNet on handwritten digits, in a few minutes."""

    plugin: tuple[Path, ...] = ()
    """Python files that define further strategies."""
    json: bool = False
    """Print the result as JSON instead of a table."""
    quiet: bool = False
    """Say nothing while it runs."""


def run(options: Options) -> int:
    """Compare, print the table, write the report."""
    import json

    from regroup.cli._plugins import load_plugins
    from regroup.cli._table import comparison_table, show
    from regroup.comparison.runner import compare
    from regroup.report.render import summary_lines, write_report

    load_plugins(options.plugin)
    config = CompareConfig(**{f.name: getattr(options, f.name) for f in fields(CompareConfig)})
    silent = options.quiet or options.json
    result = compare(config, say=(lambda line: None) if silent else _say)
    page = write_report(result, options.out)
    if options.json:
        print(json.dumps(asdict(result), indent=1))
        return 0
    show(comparison_table(result))
    for row in result.rows:
        if row.error:
            print(f"not run: {row.strategy}: {row.error}")
    for line in summary_lines(result):
        print(line)
    print(f"report: {page} (comparison.json and comparison.csv beside it)")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
