"""Every grouping in a whole network: the speed that its multiply-adds promise, and the one that is measured.

python -m benchmarks.strategies --json docs/strategies.json
REGROUP_TARGET=avx2 python -m benchmarks.strategies --json docs/strategies.json
python -m benchmarks.strategies --network mobilenet_v2 --size 224 --batch 8 --json docs/strategies.json
python -m docs.strategies                       # the page and the picture

All 3x3 convolutions of a ResNet-18 (of a MobileNetV2: its 1x1 convolutions) are replaced by a variant of a
strategy; what learns is settled and deployed. Times are the least over some rounds, in each of which the
dense network, the variant and the other runtimes (ONNX Runtime, OpenVINO, as far as they are installed; the
same weights) take their turns: on a machine that others use too, only the quickest call says what a program
takes.

The floor is what no program for these numbers goes below: multiply-adds at the measured peak of float32 or
weights at the measured bandwidth, whichever takes longer. Winograd's algorithm has fewer multiplications, and
integers are narrower, so some come below it.

Each row is kept as soon as it is measured: a run that was cut off (`--within` seconds) goes on where it was,
and `--again` measures all rows once more and keeps the least times of both.
`--prepare` compiles and exports without measuring, so that a later run does little else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.engine import Runtime, export, in_onnxruntime, in_openvino
from rich.console import Console
from rich.table import Table
from torch import nn

import regroup
from regroup.kernels.machine.target import Target
from regroup.kernels.program.peak import peak_gflops
from regroup.ops.counting import count_macs
from regroup.profiling.machine import machine
from regroup.strategies import Strategy, strategies

DENSE = "dense"
PEERS = {"ONNX Runtime": ("onnxruntime", in_onnxruntime), "OpenVINO": ("openvino", in_openvino)}
NETWORKS = {"resnet18": (3, 3), "mobilenet_v2": (1, 1)}
"""Which convolutions of a network are replaced, by the size of their kernels."""

_ROUNDS, _TURN = 10, 0.03
"""Turns of each runtime, and seconds of calls in one."""

_BUFFER = 1 << 24
"""Floats that are read to measure the bandwidth: 64 MiB."""


@dataclass(frozen=True)
class Row:
    """One variant in one network.

    Attributes:
        network: its name.
        size: height and width of an image.
        batch: images of a call.
        unit: the vector unit that code was made for.
        threads: of all runtimes.
        strategy: the variant.
        macs: multiply-adds of an image.
        dense_macs: those of the network as it was.
        replaced: convolutions that were replaced.
        weight_bytes: of the compiled network.
        seconds: of an image, by runtime.
        dense_seconds: of the network as it was, by regroup, in the same turns.
        peak: multiply-adds of floats a second, of all threads.
        bandwidth: bytes a second that all threads read.
        in_pytorch: operators that are left to PyTorch.
        kernels: share of the steps' time by what they are.
        bursts: how often it was measured.
    """

    network: str
    size: int
    batch: int
    unit: str
    threads: int
    strategy: str
    macs: int
    dense_macs: int
    replaced: int
    weight_bytes: int
    seconds: dict[str, float]
    dense_seconds: float
    peak: float
    bandwidth: float
    in_pytorch: int
    kernels: dict[str, float]
    bursts: int = 1

    @property
    def promised(self) -> float:
        """The speed-up that fewer multiply-adds promise."""
        return self.dense_macs / self.macs

    @property
    def measured(self) -> float:
        """The speed-up over the dense network, both by regroup."""
        return self.dense_seconds / self.seconds["regroup"]

    @property
    def floor_seconds(self) -> float:
        """Of an image: arithmetic at the peak, or weights at the bandwidth."""
        return max(self.macs / self.peak, self.weight_bytes / self.bandwidth / self.batch)

    @property
    def kept(self) -> float:
        """The share of the nearer of promise and floor that the clock confirms."""
        return max(self.measured / self.promised, self.floor_seconds / self.seconds["regroup"])

    @property
    def lead(self) -> float | None:
        """Time of the fastest other runtime over that of regroup; None where there is no other."""
        others = [seconds for name, seconds in self.seconds.items() if name != "regroup"]
        return min(others) / self.seconds["regroup"] if others else None

    def merged(self, other: Row) -> Row:
        """Return the row with the least of both's times: what disturbs a measurement only makes it longer."""
        names = {**self.seconds, **other.seconds}
        infinite = float("inf")
        seconds = {n: min(self.seconds.get(n, infinite), other.seconds.get(n, infinite)) for n in names}
        quicker = self if self.seconds["regroup"] <= other.seconds["regroup"] else other
        return replace(
            quicker,
            seconds=seconds,
            dense_seconds=min(self.dense_seconds, other.dense_seconds),
            peak=max(self.peak, other.peak),
            bandwidth=max(self.bandwidth, other.bandwidth),
            bursts=self.bursts + other.bursts,
        )

    @property
    def key(self) -> tuple[object, ...]:
        """What was measured."""
        return self.network, self.size, self.batch, self.unit, self.threads, self.strategy


def variants() -> dict[str, Strategy]:
    """Return every variant of every strategy, by its text."""
    return {str(v): v for name in strategies for v in strategies[name].variants()}


def network(name: str, strategy: Strategy | None) -> tuple[nn.Module, int]:
    """Return a network with a strategy in it, as after training, and how many convolutions it replaced."""
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=1000)
    replaced = 0
    if strategy is not None:
        kernel = NETWORKS[name]
        changes = regroup.replace(model, strategy, where=lambda _, conv: conv.kernel_size == kernel)
        replaced = len(changes.replaced)
    regroup.set_progress(model, 1)
    return regroup.deploy(model.eval()).eval(), replaced


def bandwidth(threads: int) -> float:
    """Return the bytes a second that all threads read together."""
    source, best = torch.ones(_BUFFER * threads), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        source.sum()
        best = min(best, time.perf_counter() - start)
    return 4 * source.numel() / best


class Bench:
    """Networks of one size and batch, with the dense one among them.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.exports = options, options.exports
        self.x = torch.randn(options.batch, 3, options.size, options.size)
        self.peers = [p for p in options.peers if importlib.util.find_spec(PEERS[p][0])]
        self.dense, _ = network(options.network, None)
        self.dense_macs = count_macs(self.dense, self.x[:1])
        self.fast_dense = regroup.compile(self.dense, self.x, frozen=True)

    def prepare(self, label: str, strategy: Strategy) -> None:
        """Compile and export a network, so that both are there when it is measured."""
        model, _ = network(self.options.network, strategy)
        regroup.compile(model, self.x, frozen=True)
        if self.peers:
            self.exported(label, model)

    def row(self, label: str, strategy: Strategy, before: Row | None = None) -> Row:
        """Measure one variant; what takes its time is not looked at again where that is known `before`."""
        options, x = self.options, self.x
        model, replaced = network(options.network, strategy)
        with torch.no_grad():
            macs = count_macs(model, x[:1])
            fast = regroup.compile(model, x, frozen=True)
            runtimes: dict[str, Runtime] = {"": lambda: self.fast_dense(x), "regroup": lambda: fast(x)}
            for peer in self.peers:
                path = self.exported(label, model)
                if path is not None:
                    runtimes[peer] = PEERS[peer][1](path, x, options.threads)
            least = {name: seconds / options.batch for name, seconds in quickest(runtimes).items()}
        peak_gflops.cache_clear()
        dense = least.pop("")
        here = options.network, options.size, options.batch, Target.host().name, options.threads, label
        peak, read = options.threads * peak_gflops() * 1e9 / 2, bandwidth(options.threads)
        if before is not None:
            again = replace(before, seconds=least, dense_seconds=dense, peak=peak, bandwidth=read, bursts=1)
            return again.merged(before)
        explained = fast.explain(json=True)
        assert isinstance(explained, dict)
        apart = sum(len(s["operators"]) for s in explained["segments"] if s["runs"] == "PyTorch")
        weights = 4 * sum(s.program.weights.size for s in native_segments(fast, options.batch))
        counted = macs, self.dense_macs, replaced, weights
        return Row(*here, *counted, least, dense, peak, read, apart, shares(explained))

    def exported(self, label: str, model: nn.Module) -> Path | None:
        """Return the network as an ONNX file; None where PyTorch cannot write it."""
        options = self.options
        name = f"{options.network}-{options.size}-{options.batch}-{label}".replace(":", "-").replace("=", "")
        path = self.exports / f"{name}.onnx"
        if not path.exists():
            self.exports.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.onnx")
            try:
                export(model, self.x, partial)
            except Exception as error:  # whatever its exporter raises: there is a row without other runtimes
                print(f"{label}: not exported: {str(error).splitlines()[0]}", file=sys.stderr)
                return None
            data = partial.with_name(partial.name + ".data")
            if data.exists():  # which the file names: it cannot be renamed
                return partial
            partial.rename(path)
        return path


def native_segments(fast: Any, batch: int) -> Iterator[Any]:
    """Yield the parts of a compiled network that are native code."""
    yield from (s for s in fast._prepared.plan(batch).segments if hasattr(s, "program"))


def shares(explained: dict[str, Any]) -> dict[str, float]:
    """Return the share of all steps' time that each kind of kernel takes, the largest first."""
    found: dict[str, float] = defaultdict(float)
    for segment in explained["segments"]:
        for step in segment.get("steps", ()):
            found[step["parts"][0]["kernel"]] += step["microseconds"]
    total = sum(found.values()) or 1.0
    return {name: round(t / total, 3) for name, t in sorted(found.items(), key=lambda item: -item[1])}


def quickest(runtimes: dict[str, Runtime]) -> dict[str, float]:
    """Return the seconds of the quickest call of each runtime, which take turns."""
    best = dict.fromkeys(runtimes, float("inf"))
    for _ in range(_ROUNDS):
        for name, run in runtimes.items():
            run()
            end = time.perf_counter() + _TURN
            while time.perf_counter() < end:
                start = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def load(path: Path | None) -> dict[str, Any]:
    """Return what has been measured; nothing if there is no file yet."""
    if path is None or not path.exists():
        return {"machine": machine().to_dict(), "rows": []}
    return json.loads(path.read_text())


def save(path: Path | None, data: dict[str, Any]) -> None:
    """Keep what has been measured."""
    if path is not None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(data, indent=1) + "\n")
        partial.replace(path)


def measure(options: argparse.Namespace, data: dict[str, Any]) -> list[Row]:
    """Measure what is not there yet, as long as there is time; return all rows."""
    rows = {row.key: row for row in (Row(**one) for one in data["rows"])}
    wanted = {label: v for label, v in variants().items() if options.only in label}
    place = options.network, options.size, options.batch, Target.host().name, options.threads
    done = {row.strategy: row.bursts for key, row in rows.items() if key[:-1] == place}
    left = [label for label in wanted if options.prepare or options.again or label not in done]
    left.sort(key=lambda label: done.get(label, 0))
    end, made = time.monotonic() + options.within, Bench(options)
    for label in left:
        if time.monotonic() > end:
            break
        print(f"{label} ...", file=sys.stderr, flush=True)
        if options.prepare:
            made.prepare(label, wanted[label])
            continue
        rows[*place, label] = made.row(label, wanted[label], rows.get((*place, label)))
        data["rows"] = [asdict(one) for one in rows.values()]
        save(options.json, data)
    return rows_of(data)


def rows_of(data: dict[str, Any]) -> list[Row]:
    """Return the rows that were kept.

    Those of one network on one machine share the peak and the bandwidth, the best that was seen, and the
    dense network, whose time is the median over the rows: the least of all would be of many more bursts than
    that of a variant.
    """
    rows, found = [Row(**one) for one in data["rows"]], []
    for row in rows:
        own = [one for one in rows if one.key[:-1] == row.key[:-1]]
        dense = median(one.dense_seconds for one in own)
        best = {name: max(getattr(one, name) for one in own) for name in ("peak", "bandwidth")}
        found.append(replace(row, dense_seconds=dense, **best))
    return found


def table(rows: list[Row]) -> Table:
    """Return the rows, those that keep least of their promise first."""
    found = Table(box=None)
    names = (
        "strategy",
        "M MACs",
        "ms",
        "promised",
        "measured",
        "kept",
        "floor, ms",
        "fastest other",
        "most of it",
    )
    for name in names:
        found.add_column(name, justify="left" if name in ("strategy", "most of it") else "right")
    for row in sorted(rows, key=lambda r: r.kept):
        seconds, lead = row.seconds["regroup"], row.lead
        found.add_row(
            row.strategy,
            f"{row.macs / 1e6:.0f}",
            f"{1e3 * seconds:.2f}",
            f"{row.promised:.2f}x",
            f"{row.measured:.2f}x",
            f"{100 * row.kept:.0f} %",
            f"{1e3 * row.floor_seconds:.2f}",
            "" if lead is None else f"{lead:.2f}x",
            ", ".join(f"{name} {100 * share:.0f} %" for name, share in list(row.kernels.items())[:2]),
        )
    return found


def main() -> None:
    """Measure, and print what was measured for this network, size, batch and vector unit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet18")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="variants whose text contains this")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds; no row begins later")
    parser.add_argument("--again", action="store_true", help="measure all again, keep the least times")
    parser.add_argument("--prepare", action="store_true", help="compile and export, measure nothing")
    parser.add_argument("--exports", type=Path, default=Path("benchmarks/results/strategies"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load(options.json)
    rows = measure(options, data)
    place = options.network, options.size, options.batch, Target.host().name, options.threads
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"{machine()}, code for {Target.host().name}")
    console.print(table([row for row in rows if row.key[:-1] == place]))


if __name__ == "__main__":
    main()
