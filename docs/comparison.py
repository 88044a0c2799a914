"""Put a comparison into the README: its table, and docs/compare.svg.

regroup compare
python -m docs.comparison report/comparison.json
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from regroup.comparison.evidence import Evidence
from regroup.comparison.result import Comparison
from regroup.report import charts
from regroup.report.summary import summary_lines
from regroup.report.table import COLUMNS, cells

README = Path(__file__).parent.parent / "README.md"
PICTURE = Path(__file__).with_name("compare.svg")


def main(path: str) -> None:
    """Write both files from the comparison stored at `path`."""
    comparison = Comparison.load(path).sorted()
    svg = charts.tradeoff(comparison, "macs")
    white = '<rect width="100%" height="100%" fill="white"/>'  # readable on a dark page too
    PICTURE.write_text(re.sub(r"(<svg[^>]*>)", rf"\1{white}", svg, count=1))
    readme = README.read_text()
    marked = re.compile(r"<!-- begin: regroup compare -->.*?<!-- end -->", re.DOTALL)
    table = f"<!-- begin: regroup compare -->\n{markdown(comparison)}\n<!-- end -->"
    README.write_text(marked.sub(lambda _: table, readme))


def markdown(comparison: Comparison) -> str:
    """Return the table, and below it what it was measured on."""
    evidence = Evidence.of(comparison)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    for row in comparison.rows:
        if not row.error:
            name, *figures = cells(row, evidence).values()
            lines.append(f"| `{name}` | " + " | ".join(figures) + " |")
    m, s = comparison.machine, comparison.settings
    made = f"{s['backbone']} on {s['data']}, {s['epochs']} epochs, {len(s['seeds'])} seed(s); "
    made += f"PyTorch {m['torch']} eager, batch {s['timed_batch']}, {m['device']}, "
    made += f"{m['threads']} threads, {m['capability']}."
    return "\n".join([*lines, "", " ".join([*summary_lines(comparison), made])])


if __name__ == "__main__":
    main(sys.argv[1])
