"""Train one network with groupings of every kind and report what each costs and gains: the main job."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from regroup.comparison.settings import CompareConfig
from regroup.files.remote import address

if TYPE_CHECKING:
    from regroup.comparison.result import Comparison


@dataclass(frozen=True)
class Options(CompareConfig):
    """Without options: one grouping of each kind in a small ResNet on handwritten digits, in minutes."""

    backbone: Annotated[str, tyro.conf.arg(name="model", aliases=["--backbone"])] = "resnet_small"
    """Network whose convolutions are replaced: one of ours (`regroup models`), of timm or of torchvision;
    with a head, such as unet:resnet18, for another task than classifying."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further strategies and networks."""
    json: bool = False
    """Print the result as JSON instead of a table."""
    quiet: bool = False
    """Say nothing while it runs, but that it waits for another process."""


def completed(options: Options, parse: Callable[..., Options]) -> Options:
    """Return the options with the defaults of their task where nothing is given."""
    from regroup.training.tasks import tasks

    known = {f.name for f in fields(Options)}
    defaults = {"backbone" if n == "model" else n: v for n, v in tasks[str(options.task)].defaults.items()}
    defaults = {name: value for name, value in defaults.items() if name in known}
    return parse(default=replace(Options(), task=options.task, **defaults)) if defaults else options


def run(options: Options) -> int:
    """Compare, print the table, write the report; 1 if the machine left something out, or only dense ran."""
    from regroup.cli._table import say
    from regroup.comparison.runner import compare
    from regroup.loading.plugins import load_plugins

    plugins = load_plugins(options.plugin)
    config = CompareConfig(**{f.name: getattr(options, f.name) for f in fields(CompareConfig)})
    silent = options.quiet or options.json
    written: list[str | None] = []
    try:
        result = compare(
            config,
            say=(lambda line: None) if silent else _say,
            keep=lambda result, home: written.append(_write(result, options.out, home)),
            warn=_say,
            code=plugins,
        )
    except (KeyboardInterrupt, SystemExit):
        place = address(options.out) or options.out
        _say(f"stopped; the same command goes on from what is in {place}")
        raise
    _show(result, written[0], options.json)
    if (more := config.left_out()) and not options.json:
        say(f"not run: {len(more)} more variants, which --all runs too: {', '.join(map(str, more))}")
    return _status(result)


def _write(result: Comparison, out: Path, home: Path) -> str | None:
    """Write the report, unless it would replace one with results that this one lacks; return its page.

    Args:
        result: what it is of.
        out: directory or URL of the comparison.
        home: directory of this machine where it is written.
    """
    from regroup.comparison.result import Comparison
    from regroup.errors import PlanError, ReportError
    from regroup.report.render import write_report

    place = address(out) or str(out)
    with suppress(PlanError):
        lacking = result.loses_to(Comparison.load(home / "comparison.json"))
        if lacking:
            _say(f"the report in {place} is left as it was: it has results of {', '.join(lacking)}")
            return None
    try:
        return f"{place}/{write_report(result, home).name}"
    except ReportError as error:
        remedy = f"what was trained is kept in {place}, and the same command takes it up"
        raise ReportError(error.path, f"{error.reason}; {remedy}") from error


def _show(result: Comparison, page: str | None, as_json: bool) -> None:
    import json

    from regroup.cli._table import comparison_table, say, show
    from regroup.report.summary import summary_lines

    if as_json:
        print(json.dumps(asdict(result), indent=1))
        return
    show(
        comparison_table(result),
        ("to mix", "reach", "eager", "speed-up", "params", "promised", "against dense", "interval"),
    )
    for row in result.rows:
        if row.error:
            say(f"not run: {row.strategy}: {row.error}")
    for line in summary_lines(result):
        say(line)
    if page is not None:
        say(f"report: {page} (comparison.json and comparison.csv beside it)")


def _status(result: Comparison) -> int:
    failed = [row.strategy for row in result.rows if row.cause == "machine"]
    if failed:
        _say(f"not complete, for the machine's sake: {', '.join(failed)}; the same command tries again")
        return 1
    asked = [row for row in result.rows if row.strategy != "dense"]
    if asked and all(row.error for row in asked):
        _say("nothing was compared: of the groupings, none could be run")
        return 1
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
