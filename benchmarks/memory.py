"""Memory of a call: how much more is resident at the peak of the calls than before the first one.

python -m benchmarks.memory
python -m benchmarks.memory --networks mixnet_s --batch 16 --json memory.json

Each runtime has a process of its own, in which the network is made ready first: what that holds (weights,
code) is the second column of each pair, what calls take besides (activations, outputs, workspaces) the first.
Linux only: it reads and resets the kernel's own high-water mark.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from benchmarks.engine import Runtime, prepared
from rich.console import Console
from rich.table import Table

import regroup.engine.running.compiled
from regroup.networks.anywhere import create_any_model
from regroup.testing.workloads import NETWORKS

_CALLS = 20
_MIB = 1 << 20

RUNTIMES = ("PyTorch", "ONNX Runtime", "OpenVINO", "regroup")


def resident(peak: bool = False) -> int:
    """Return bytes of this process in memory: now, or the most since `forget_peak`."""
    field = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def forget_peak() -> None:
    """Give free memory back to the system, and begin a new high-water mark."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def ready(runtime: str, network: str, batch: int, threads: int, exported: str) -> Runtime:
    """Return a network in one of `RUNTIMES`, to be called without arguments."""
    x = torch.randn(batch, 3, 224, 224)
    if runtime == "ONNX Runtime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    if runtime == "OpenVINO":
        import openvino as ov

        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_PRECISION_HINT"] = "f32"
        request = ov.Core().compile_model(exported, "CPU", settings).create_infer_request()
        return lambda: next(iter(request.infer([x.numpy()]).values()))
    model = create_any_model(network).eval()
    fast = regroup.engine.running.compiled.compile(model, x) if runtime == "regroup" else model
    return lambda: fast(x)


def measure(runtime: str, network: str, batch: int, threads: int, exported: str) -> dict[str, int]:
    """Return the bytes that calls take, and those that are held before the first."""
    torch.set_num_threads(threads)
    forget_peak()
    bare = resident()
    with torch.no_grad():
        run = ready(runtime, network, batch, threads, exported)
        forget_peak()
        before = resident()
        for _ in range(_CALLS):
            run()
    return {"calls": resident(peak=True) - before, "held": before - bare}


def in_own_process(runtime: str, network: str, batch: int, threads: int, exported: str) -> dict[str, int]:
    """Return what `measure` returns in a new process."""
    call = f"measure({runtime!r}, {network!r}, {batch}, {threads}, {exported!r})"
    code = f"import json; from benchmarks.memory import measure; print(json.dumps({call}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def export(network: str, batch: int, folder: str) -> str:
    """Write a network as ONNX and return the path."""
    path = f"{folder}/{network}-{batch}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.randn(batch, 3, 224, 224)
        torch.onnx.export(prepared(network), (x,), path, dynamo=True, verbose=False)
    return path


def table(rows: list[dict]) -> Table:
    """Return MiB: of the calls, and held before them."""
    found = Table(box=None)
    for column in ("network", "batch", *RUNTIMES):
        found.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        cells = (row["runtimes"][name] for name in RUNTIMES)
        texts = [f"{cell['calls'] / _MIB:.1f} (+{cell['held'] / _MIB:.0f})" for cell in cells]
        found.add_row(row["network"], str(row["batch"]), *texts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for network in options.networks:
            for batch in options.batch:
                path = export(network, batch, folder)
                taken = {r: in_own_process(r, network, batch, options.threads, path) for r in RUNTIMES}
                rows.append({"network": network, "batch": batch, "runtimes": taken})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    Console(width=None if sys.stdout.isatty() else 120).print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
