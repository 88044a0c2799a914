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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Layer:
    """A convolution of a network: channels in and out, input size, kernel, stride, groups."""

    network: str
    inputs: int
    outputs: int
    size: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    planar: bool = False
    prologue: bool = False
    activation: str = "relu"
    residual: bool = False

    def problem(self) -> Conv:
        """Return the kernel's problem."""
        out = (self.size - 1) // self.stride + 1
        y = View.nhwc(out, out, self.outputs)
        bare = Conv(
            View.nhwc(self.size, self.size, self.inputs),
            y,
            Prologue(self.prologue, "relu" if self.prologue else "none"),
            Epilogue(True, self.activation, y if self.residual else None),
            kernel_size=(self.kernel,) * 2,
            stride=(self.stride,) * 2,
            padding=(self.kernel // 2,) * 2,
            groups=self.groups,
        )
        planar, halo = View.nchw(self.size, self.size, self.inputs), bare.x_halo
        x = planar if self.planar else View.nhwc(self.size, self.size, self.inputs, halo=halo)
        return Conv(
            x,
            y,
            bare.prologue,
            bare.epilogue,
            bare.kernel_size,
            bare.stride,
            bare.padding,
            (1, 1),
            self.groups,
        )


def _inverted(
    network: str, size: int, inputs: int, hidden: int, outputs: int, stride: int, k: int = 3, groups: int = 1
):
    return (
        Layer(network, inputs, hidden, size, groups=groups, activation="relu6"),
        Layer(network, hidden, hidden, size, k, stride, hidden, activation="relu6"),
        Layer(network, hidden, outputs, -(-size // stride), groups=groups, activation="none"),
    )


def _shuffle(size: int, channels: int, groups: int):
    quarter = channels // 4
    return (
        Layer("shufflenet", channels, quarter, size, groups=groups),
        Layer("shufflenet", quarter, quarter, size, 3, 1, quarter, activation="none"),
        Layer("shufflenet", quarter, channels, size, groups=groups, residual=True),
    )


LAYERS = (
    Layer("mobilenet", 3, 32, 224, 3, 2, planar=True),
    Layer("mobilenet", 32, 32, 112, 3, 1, 32),
    Layer("mobilenet", 32, 64, 112),
    *_inverted("mobilenet_v2", 112, 16, 96, 24, 2),
    *_inverted("mobilenet_v2", 56, 24, 144, 24, 1),
    *_inverted("mobilenet_v2", 28, 32, 192, 32, 1),
    *_inverted("mobilenet_v2", 14, 96, 576, 96, 1),
    *_inverted("mobilenet_v2", 7, 160, 960, 320, 1),
    *_inverted("igcv3", 56, 24, 144, 24, 1, groups=2),
    *_inverted("igcv3", 14, 64, 384, 64, 1, groups=2),
    Layer("shufflenet", 3, 24, 224, 3, 2, planar=True),
    *_shuffle(28, 240, 3),
    *_shuffle(14, 480, 3),
    *_shuffle(7, 960, 3),
    Layer("condensenet", 64, 64, 28, groups=4, prologue=True),
    Layer("condensenet", 64, 16, 28, 3, 1, 4),
    Layer("condensenet", 256, 128, 14, groups=4, prologue=True),
    Layer("condensenet", 128, 32, 14, 3, 1, 4),
    Layer("condensenet", 1024, 512, 7, groups=4, prologue=True),
    Layer("condensenet", 512, 128, 7, 3, 1, 4),
    *(Layer("mixnet", 48, 48, 28, k, 1, 48, activation="silu") for k in (3, 5, 7, 9, 11)),
    Layer("mixnet", 200, 200, 14, 9, 2, 200, activation="silu"),
    *(Layer("resnext50", c, c, s, 3, 1, 32) for c, s in ((128, 56), (256, 28), (512, 14), (1024, 7))),
    Layer("resnet50", 3, 64, 224, 7, 2, planar=True),
    *(Layer("resnet50", c, c, s, 3) for c, s in ((64, 56), (128, 28), (256, 14), (512, 7))),
    *(Layer("resnet50", c, 4 * c, s, residual=True) for c, s in ((64, 56), (128, 28), (256, 14), (512, 7))),
    *(Layer("resnet50", 4 * c, c, s) for c, s in ((64, 56), (128, 28), (256, 14), (512, 7))),
    Layer("googlenet", 192, 64, 28),
    *(Layer("googlenet", i, o, s, 3) for i, o, s in ((64, 192, 56), (128, 192, 28), (16, 32, 28))),
    *(Layer("googlenet", i, o, s, 3) for i, o, s in ((112, 224, 14), (160, 320, 14), (192, 384, 7))),
    Layer("squeezenet", 64, 16, 55),
    Layer("squeezenet", 16, 64, 55, 3),
)


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


def torch_seconds(layer: Layer) -> float:
    """Return the time of PyTorch's convolution (without bias, activation, residual), channels last."""
    x = torch.randn(1, layer.inputs, layer.size, layer.size).to(memory_format=torch.channels_last)
    w = torch.randn(layer.outputs, layer.inputs // layer.groups, layer.kernel, layer.kernel)
    w = w.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return quickest(lambda: F.conv2d(x, w, None, layer.stride, layer.kernel // 2, 1, layer.groups))


def measure(layers: list[Layer], every: bool) -> Iterator[dict]:
    """Yield a row per kernel."""
    target = Target.host()
    for layer in layers:
        problem = layer.problem()
        theirs = torch_seconds(layer)
        best = templates.choose(problem, target)
        for kernel in templates.kernels(problem, target) if every else [best]:
            seconds = regroup_seconds(kernel)
            yield {
                "network": layer.network,
                "layer": f"{layer.inputs}->{layer.outputs} {layer.kernel}x{layer.kernel} /{layer.stride} "
                f"g{layer.groups} @{layer.size}",
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
    for row in measure([layer for layer in LAYERS if options.only in layer.network], options.all):
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
