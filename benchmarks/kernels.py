"""Speed of single kernels at the shapes of the networks, on one thread, against PyTorch in the same run.

python -m benchmarks.kernels            # the tile that the cost model chooses
python -m benchmarks.kernels --all      # every tile, to see what the model misses
python -m benchmarks.kernels --only mobilenet --json kernels.json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from regroup.kernels import templates
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv, Epilogue, Prologue
from regroup.kernels.problems.view import View
from regroup.kernels.program import aligned
from regroup.kernels.program.peak import peak_gflops
from regroup.kernels.templates.base import Kernel
from regroup.kernels.templates.parts.fetch import CURSOR
from regroup.testing.workloads import WORKLOADS, Workload


def problem_of(layer: Workload) -> Conv:
    """Return the kernel's problem."""
    y = View.nhwc(layer.out, layer.out, layer.outputs)
    plain = View.nhwc(layer.size, layer.size, layer.inputs)
    conv = Conv(
        plain,
        y,
        Prologue(layer.preactivated, "relu" if layer.preactivated else "none"),
        Epilogue(True, layer.activation, y if layer.residual else None),
        kernel_size=layer.spec.kernel_size,
        stride=layer.spec.stride,
        padding=layer.spec.padding,
        groups=layer.groups,
    )
    if layer.inputs == 3:  # the network's own input
        return replace(conv, x=View.nchw(layer.size, layer.size, layer.inputs))
    return replace(conv, x=View.nhwc(layer.size, layer.size, layer.inputs, halo=conv.x_halo))


def quickest(call: Callable[[], None], seconds: float = 0.03) -> float:
    """Return the time of a call, in seconds: the lower quartile, which other processes disturb least."""
    call()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 8:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.quantiles(times, n=4)[0]


def regroup_seconds(kernel: Kernel) -> float:
    """Return the time of a kernel on one core."""
    loaded = jit.load([jit.compile_object(assembly(kernel.emit("kernel")), kernel.target)])
    memory = [aligned(view.floats) for view in kernel.problem.views]
    weights, private = aligned(kernel.packed), aligned(CURSOR + kernel.scratch)
    private[:CURSOR].view(np.int64)[:] = 0  # nothing is fetched ahead
    for floats in (*memory, weights):
        floats[:] = np.random.default_rng(0).standard_normal(len(floats), np.float32) * 0.1
    starts = [m.ctypes.data - 4 * v.first for m, v in zip(memory, kernel.problem.views, strict=True)]
    table = (ctypes.c_void_p * (len(starts) + 1))(*starts, weights.ctypes.data)
    types = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    call = ctypes.CFUNCTYPE(None, *types)(loaded.address("kernel"))
    return quickest(lambda: call(table, 0, kernel.items, private.ctypes.data + 4 * CURSOR))


def torch_seconds(layer: Workload) -> float:
    """Return the time of PyTorch's convolution (without bias, activation, residual), channels last."""
    x = torch.randn(1, layer.inputs, layer.size, layer.size).to(memory_format=torch.channels_last)
    w = torch.randn(layer.outputs, layer.inputs // layer.groups, layer.kernel, layer.kernel)
    w = w.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return quickest(lambda: F.conv2d(x, w, None, layer.stride, layer.kernel // 2, 1, layer.groups))


def measure(layers: list[Workload], every: bool) -> Iterator[dict]:
    """Yield a row per kernel."""
    target = Target.host()
    for layer in layers:
        problem = problem_of(layer)
        theirs = torch_seconds(layer)
        best = templates.choose(problem, target)
        for kernel in templates.kernels(problem, target) if every else [best]:
            seconds = regroup_seconds(kernel)
            yield {
                "network": layer.network,
                "layer": str(layer).partition(" ")[2],
                "kernel": f"{kernel.template} {kernel.tile}"
                + (" *" if every and kernel.key == best.key else ""),
                "microseconds": seconds * 1e6,
                "gflops": 2 * problem.macs / seconds / 1e9,
                "expected": 2 * problem.macs / kernel.cycles,
                "torch_microseconds": theirs * 1e6,
            }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="measure every tile, not only the chosen one")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--json", help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    peak = peak_gflops()
    table = Table("network", "layer", "kernel", "us", "GFLOP/s", "of peak", "x PyTorch")
    rows = []
    for row in measure([layer for layer in WORKLOADS if options.only in layer.network], options.all):
        rows.append({**row, "peak": peak})
        share, gain = row["gflops"] / peak, row["torch_microseconds"] / row["microseconds"]
        cells = (f"{row['microseconds']:.1f}", f"{row['gflops']:.0f}", f"{share:.0%}", f"{gain:.1f}")
        table.add_row(row["network"], row["layer"], row["kernel"], *cells)
    console = Console()
    console.print(table)
    console.print(f"peak of one core: {peak:.0f} GFLOP/s, measured")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
