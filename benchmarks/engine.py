"""Whole networks: regroup against PyTorch (eager, and compiled with freezing), ONNX Runtime and OpenVINO.

python -m benchmarks.engine
python -m benchmarks.engine --networks mobilenet_v2_100 mixnet_s --batch 1 16 --threads 2 --json engine.json

All in one process, with the same weights, inputs and number of threads, round after round, each runtime in
turn; the table shows medians and quartiles. If any output differs by more than rounding explains, nothing is
printed but that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import regroup.engine.running.compiled
from regroup.networks.anywhere import create_any_model
from regroup.profiling.clock import Timing
from regroup.profiling.machine import machine
from regroup.testing.workloads import NETWORKS

Runtime = Callable[[], Tensor]

OURS = ("regroup", "regroup, frozen")
"""The first makes sure at every call that the model's weights are those it was compiled with; the others, and
the second, took a copy.
"""

_PAUSE, _WARM_UP, _TIMED = 0.03, 0.03, 0.03
"""Seconds of a turn."""


@dataclass(frozen=True)
class Row:
    """One network at one batch size: seconds per image of each runtime."""

    network: str
    batch: int
    seconds: dict[str, tuple[float, float, float]]
    compile_seconds: float

    def speedup(self, ours: str = "regroup") -> float:
        """Time of the fastest other runtime over that of regroup."""
        others = [median for name, (_, median, _) in self.seconds.items() if name not in OURS]
        return min(others) / self.seconds[ours][1]


def eager(model: nn.Module, x: Tensor, threads: int) -> Runtime:
    """Return the model as it is."""
    return lambda: model(x)


def inductor(model: nn.Module, x: Tensor, threads: int) -> Runtime:
    """Return torch.compile with its weights frozen, as PyTorch recommends for inference on the CPU."""
    torch._dynamo.reset()
    torch._inductor.config.freezing = True
    compiled = torch.compile(model)
    return lambda: compiled(x)


def onnxruntime(model: nn.Module, x: Tensor, threads: int) -> Runtime:
    """Return ONNX Runtime with all its graph optimisations."""
    return in_onnxruntime(_exported(model, x), x, threads)


def openvino(model: nn.Module, x: Tensor, threads: int) -> Runtime:
    """Return OpenVINO, set for latency and float32."""
    return in_openvino(_exported(model, x), x, threads)


def in_onnxruntime(path: Path, x: Tensor, threads: int) -> Runtime:
    """Return ONNX Runtime on a file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, array = session.get_inputs()[0].name, x.numpy()
    return lambda: torch.from_numpy(session.run(None, {name: array})[0])


def in_openvino(path: Path, x: Tensor, threads: int) -> Runtime:
    """Return OpenVINO on a file, for inputs of one size."""
    import openvino as ov

    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = core.read_model(path)
    model.reshape(list(x.shape))
    request, array = core.compile_model(model, "CPU", settings).create_infer_request(), x.numpy()
    return lambda: torch.from_numpy(next(iter(request.infer([array]).values())))


@lru_cache(maxsize=1)
def _exported(model: nn.Module, x: Tensor) -> Path:
    path = Path(tempfile.mkdtemp(prefix="regroup-bench-")) / "model.onnx"
    export(model, x, path)
    return path


def export(model: nn.Module, x: Tensor, path: Path) -> None:
    """Write a network as an ONNX file, for inputs like `x`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False)


PEERS = {
    "PyTorch": eager,
    "torch.compile": inductor,
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
}


def prepared(name: str) -> nn.Module:
    """Return a network with random weights, its normalisation statistics those of random images."""
    torch.manual_seed(0)
    model = create_any_model(name).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 224, 224))
    return model.eval()


def take_turns(runtimes: dict[str, Runtime], seconds: float) -> dict[str, Timing]:
    """Time each runtime, round after round.

    Before its timed calls each gets a pause, since the threads of the one before go on spinning for a while,
    and then calls that do not count: the caches hold the other's weights, and the processor's clock takes
    some milliseconds to rise again.
    """
    samples: dict[str, list[float]] = {name: [] for name in runtimes}
    end = time.perf_counter() + seconds * len(runtimes)
    while time.perf_counter() < end or len(samples["regroup"]) < 15:
        for name, run in runtimes.items():
            time.sleep(_PAUSE)
            _calls(run, _WARM_UP)
            samples[name] += _calls(run, _TIMED)
    return {name: Timing(tuple(taken)) for name, taken in samples.items()}


def _calls(run: Runtime, seconds: float) -> list[float]:
    """Call for so many seconds, three times at least; return the seconds that each call took."""
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 3:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def compare(name: str, batch: int, threads: int, seconds: float, peers: list[str]) -> Row:
    """Time one network at one batch size in all runtimes, once their outputs agree."""
    model, x = prepared(name), torch.randn(batch, 3, 224, 224)
    start = time.perf_counter()
    fast = regroup.engine.running.compiled.compile(model, x)
    compile_seconds = time.perf_counter() - start
    frozen = regroup.engine.running.compiled.compile(model, x, frozen=True)
    with torch.no_grad():
        runtimes = {peer: PEERS[peer](model, x, threads) for peer in peers}
        runtimes |= dict(zip(OURS, (lambda: fast(x), lambda: frozen(x)), strict=True))
        check(name, model, x, runtimes)
        timings = take_turns(runtimes, seconds)
    per_image = {n: (t.low / batch, t.median / batch, t.high / batch) for n, t in timings.items()}
    return Row(name, batch, per_image, compile_seconds)


def check(name: str, model: nn.Module, x: Tensor, runtimes: dict[str, Runtime]) -> None:
    """Exit with a message if an output is not that of float32 arithmetic.

    Against float64, ours may be off by twice as much as PyTorch's own; another runtime by a part in 100,000,
    which lower precisions exceed a hundredfold.
    """
    result = model(x)
    exact = model.double()(x.double())
    model.float()
    size = float(exact.square().mean().sqrt())
    errors = {n: _error(run(), exact) for n, run in runtimes.items()}
    limits = dict.fromkeys(runtimes, 1e-5 * size) | dict.fromkeys(OURS, 2 * _error(result, exact))
    wrong = {n: error for n, error in errors.items() if not error <= limits[n]}
    if wrong:
        sys.exit(f"{name}: outputs differ, so no times: {wrong}; allowed is {limits}")


def _error(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).square().mean().sqrt())


def table(rows: list[Row]) -> Table:
    """Return medians in milliseconds per image, quartiles beside those of regroup."""
    found = Table(box=None)
    for column in ("network", "batch", *rows[0].seconds, "quartiles", "speed-up", "frozen"):
        found.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        low, _, high = row.seconds["regroup"]
        found.add_row(
            row.network,
            str(row.batch),
            *(f"{1e3 * median:.2f}" for _, median, _ in row.seconds.values()),
            f"{1e3 * low:.2f} .. {1e3 * high:.2f}",
            f"{row.speedup():.2f}",
            f"{row.speedup(OURS[1]):.2f}",
        )
    return found


def picture(rows: list[Row], path: Path) -> None:
    """Draw how many times as fast as each other runtime regroup is, a panel for each batch size."""
    import matplotlib.pyplot as plt

    batches = sorted({row.batch for row in rows})
    figure, axes = plt.subplots(1, len(batches), figsize=(5 * len(batches), 4.5), sharey=True, squeeze=False)
    for axis, batch in zip(axes[0], batches, strict=True):
        shown = [row for row in rows if row.batch == batch][::-1]
        peers = [name for name in shown[0].seconds if name not in OURS]
        for i, peer in enumerate(peers):
            places = [j + (len(peers) / 2 - i - 0.5) * 0.8 / len(peers) for j in range(len(shown))]
            times = [row.seconds[peer][1] / row.seconds["regroup"][1] for row in shown]
            axis.barh(places, times, 0.8 / len(peers), label=peer)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_yticks(range(len(shown)), [row.network for row in shown])
        axis.set_xlabel(f"time / time of regroup, batch {batch}")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="ours, timm's or torchvision's")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=2.0, help="for each runtime, network and batch size")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.networks:
        for batch in options.batch:
            print(f"{name}, batch {batch} ...", file=sys.stderr, flush=True)
            rows.append(compare(name, batch, options.threads, options.seconds, options.peers))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"milliseconds per image; {machine()}")
    console.print(table(rows))
    if options.json:
        found = {"machine": machine().to_dict(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(found, indent=1))
    if options.picture:
        picture(rows, options.picture)


if __name__ == "__main__":
    main()
