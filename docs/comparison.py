"""Put a comparison into the README: its table, and docs/compare.svg.

regroup compare
python -m docs.comparison report/comparison.json
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from regroup.comparison.result import Comparison
from regroup.report import charts, text
from regroup.report.render import depth_text, summary_lines

README = Path(__file__).parent.parent / "README.md"
PICTURE = Path(__file__).with_name("compare.svg")
HEADER = ("strategy", "parameters", "MACs", "time / image", "accuracy")
HEADER += ("reach", "layers to mix", "promised", "measured")


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
    lines = ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
    for row in comparison.rows:
        if row.error:
            continue
        cells = [
            f"`{row.strategy}`",
            text.count(row.parameters),
            text.count(row.macs),
            text.milliseconds(row.timing.median if row.timing else None),
            text.accuracy(row.accuracy, row.spread),
            text.percent(row.reach.get("layer_fill")),
            depth_text(row),
            text.times(row.promised),
            text.times(row.measured),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    m, s = comparison.machine, comparison.settings
    made = f"{s['backbone']} on {s['data']}, {s['epochs']} epochs, {len(s['seeds'])} seed(s); "
    made += f"PyTorch {m['torch']} eager, batch {s['timed_batch']}, {m['device']}, "
    made += f"{m['threads']} threads, {m['capability']}."
    return "\n".join([*lines, "", " ".join([*summary_lines(comparison), made])])


if __name__ == "__main__":
    main(sys.argv[1])
