"""Put a comparison into the README (ten rows), docs/compare.md (all of them) and docs/compare.svg.

regroup compare --all --seeds 3 --out build/compare
python -m docs.comparison build/compare/comparison.json
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from regroup.comparison.evidence import Evidence
from regroup.comparison.result import Comparison
from regroup.report import charts
from regroup.report.summary import summary_lines
from regroup.report.table import COLUMNS, cells, headed

README = Path(__file__).parent.parent / "README.md"
PAGE = Path(__file__).with_name("compare.md")
MARKED = re.compile(r"<!-- begin: regroup compare -->.*?<!-- end -->", re.DOTALL)
STORY = (
    "dense", "grouped:groups=2", "grouped:groups=8", "shuffled:groups=8", "separable", "interleaved",
    "mixed", "octave:alpha=0.5", "condensed:groups=8", "assigned:groups=8",
)  # fmt: skip
"""Rows of the README."""
TELLING = (
    "strategy",
    "params",
    "MACs",
    "accuracy",
    "interval",
    "reach",
    "to mix",
    "promised",
    "its speed-up",
)
"""Columns of the README."""
PICTURE = Path(__file__).with_name("compare.svg")


def main(path: str) -> None:
    """Write both files from the comparison stored at `path`."""
    comparison = Comparison.load(path).sorted()
    svg = charts.tradeoff(comparison, "macs")
    white = '<rect width="100%" height="100%" fill="white"/>'  # readable on a dark page too
    PICTURE.write_text(re.sub(r"(<svg[^>]*>)", rf"\1{white}", svg, count=1))
    for page, text in (
        (PAGE, markdown(comparison)),
        (README, f"{table(comparison, TELLING, STORY)}\n\n{made(comparison)}"),
    ):
        block = f"<!-- begin: regroup compare -->\n{text}\n<!-- end -->"
        page.write_text(MARKED.sub(lambda _, block=block: block, page.read_text()))


def table(comparison: Comparison, columns: Sequence[str], only: Sequence[str] = ()) -> str:
    """Return some columns of the rows, of all or of some strategies."""
    evidence = Evidence.of(comparison)
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for row in comparison.rows:
        if not row.error and (not only or row.strategy in only):
            found = cells(row, evidence) | {"strategy": f"`{row.strategy}`"}
            lines.append("| " + " | ".join(found[name] for name in columns) + " |")
    return "\n".join(lines)


def markdown(comparison: Comparison) -> str:
    """Return the whole table; below it what it shows, what it was measured on, and what its columns are."""
    said = " ".join([*summary_lines(comparison), made(comparison)])
    meanings = [f"- *{name}*: {meaning}" for name, meaning in headed(comparison).items()]
    return "\n".join([table(comparison, COLUMNS), "", said, "", *meanings])


def made(comparison: Comparison) -> str:
    """Return on what it was measured."""
    m, s = comparison.machine, comparison.settings
    said = f"{s['backbone']} on {s['data']}, {s['epochs']} epochs, {len(s['seeds'])} seed(s); "
    said += f"PyTorch {m['torch']} eager, batch {s['timed_batch']}, {m['device']}, "
    return f"{said}{m['threads']} threads, {m['capability']}, {m['date']}."


if __name__ == "__main__":
    main(sys.argv[1])
