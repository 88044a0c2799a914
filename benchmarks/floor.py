"""How near the engine comes to the arithmetic floor: every large network of the registry, batch 1.

python -m benchmarks.floor
python -m benchmarks.floor --networks resnet50 mixnet_l --json floor.json

The floor is the time that a network's multiply-adds take at the machine's measured peak on all threads, with
nothing else to do; the peak is measured again beside each network, because clocks wander.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import regroup.engine.running.compiled
from regroup.kernels.program.peak import peak_gflops
from regroup.networks import create_model, networks
from regroup.ops.counting import count_macs
from regroup.profiling.clock import measure
from regroup.profiling.machine import machine

LARGE = 500e6
"""MACs above which a network's time is arithmetic, not memory."""


@dataclass(frozen=True)
class Row:
    """One network: its multiply-adds, seconds of a call, the floor, how much is left to PyTorch."""

    network: str
    macs: int
    seconds: float
    floor_seconds: float
    in_pytorch: int

    @property
    def share(self) -> float:
        """The floor's share of the time."""
        return self.floor_seconds / self.seconds


def row(name: str, threads: int, seconds: float) -> Row:
    """Measure one network."""
    model, x = create_model(name).eval(), torch.randn(1, 3, *networks[name].claims.size)
    with torch.no_grad():
        macs = count_macs(model, x)
        fast = regroup.engine.running.compiled.compile(model, x, frozen=True)
        taken = measure(lambda: fast(x), seconds=seconds).median
    peak_gflops.cache_clear()
    floor = 2 * macs / (threads * peak_gflops() * 1e9)
    explained = fast.explain(json=True)
    assert isinstance(explained, dict)
    apart = [segment for segment in explained["segments"] if segment["runs"] == "PyTorch"]
    return Row(name, macs, taken, floor, sum(len(segment["operators"]) for segment in apart))


def table(rows: list[Row]) -> Table:
    """Return the rows, furthest from the floor first."""
    found = Table(box=None)
    for column in ("network", "M MACs", "ms", "floor, ms", "share", "operators in PyTorch"):
        found.add_column(column, justify="left" if column == "network" else "right")
    for r in sorted(rows, key=lambda r: r.share):
        times = f"{1e3 * r.seconds:.2f}", f"{1e3 * r.floor_seconds:.2f}", f"{100 * r.share:.0f} %"
        found.add_row(r.network, f"{r.macs / 1e6:,.0f}", *times, str(r.in_pytorch or ""))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", help="all above 500 M MACs by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="for each network")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    large = [name for name in networks if 1e6 * networks[name].claims.mega_macs > LARGE]
    rows = []
    for name in options.networks or large:
        rows.append(row(name, options.threads, options.seconds))
        print(f"{name} {100 * rows[-1].share:.0f} %", file=sys.stderr, flush=True)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{machine()}")
    console.print(table(rows))
    if options.json:
        found = {"machine": machine().to_dict(), "rows": [asdict(r) for r in rows]}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
