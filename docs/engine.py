"""Put the benchmark of whole networks into the README: its table, and docs/engine.svg.

python -m benchmarks.engine --json docs/engine.json
python -m docs.engine
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.engine import OURS, Row, picture

README = Path(__file__).parent.parent / "README.md"
DATA = Path(__file__).with_name("engine.json")
PICTURE = Path(__file__).with_name("engine.svg")


def main() -> None:
    """Write both files from the measured figures."""
    data = json.loads(DATA.read_text())
    rows = [Row(**row) for row in data["rows"]]
    picture(rows, PICTURE)
    marked = re.compile(r"<!-- begin: benchmarks.engine -->.*?<!-- end -->", re.DOTALL)
    table = f"<!-- begin: benchmarks.engine -->\n{markdown(rows, data['machine'])}\n<!-- end -->"
    README.write_text(marked.sub(lambda _: table, README.read_text()))


def markdown(rows: list[Row], machine: dict[str, Any]) -> str:
    """Return the table, and below it what it was measured on."""
    columns = ["network", "batch", *rows[0].seconds, "against the fastest other", "frozen"]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for row in rows:
        times = [f"{1e3 * median:.2f}" for _, median, _ in row.seconds.values()]
        ratios = [f"{row.speedup(ours):.2f}x" for ours in OURS]
        lines.append(f"| `{row.network}` | {row.batch} | " + " | ".join([*times, *ratios]) + " |")
    made = "Milliseconds per image of 224x224, float32, medians, all in turns in one process: "
    made += f"{machine['device']}, "
    made += f"{machine['threads']} threads, {machine['capability']}, PyTorch {machine['torch']}."
    return "\n".join([*lines, "", made])


if __name__ == "__main__":
    main()
