"""Every benchmark, one after the other; run it on a quiet machine: `python -m benchmarks`, or `make bench`.

Tables go to the terminal, figures as JSON to benchmarks/results/.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PARTS = (
    "kernels",
    "engine",
    "strategies",
    "load",
    "floor",
    "memory",
    "onnx_files",
    "training",
    "operator",
    "parallel",
    "dsconv",
    "learned.condensed",
    "learned.dynamic",
)


def main() -> int:
    """Run the parts; return how many failed."""
    RESULTS.mkdir(exist_ok=True)
    failed = []
    for part in PARTS:
        print(f"\nbenchmarks.{part}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{part}", "--json", str(RESULTS / f"{part}.json")]
        if subprocess.run(command, check=False).returncode:
            failed.append(part)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
