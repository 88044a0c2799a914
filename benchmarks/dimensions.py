"""Convolutions of sound and video: regroup's operator against PyTorch's, forward and backward.

python -m benchmarks.dimensions
python -m benchmarks.dimensions --only 1 --match "width 8" --threads 1 --json dimensions.json

Each layer runs forward and backward, both gradients, in regroup and in PyTorch, contiguous and (in three
dimensions) channels_last_3d, each contender in turn, in bursts after pauses; the best of the bursts counts.
The share of the roof is the least time that the machine's arithmetic and memory allow, over the time taken.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from benchmarks.operator import best, measure, memory_bandwidth
from rich.console import Console
from rich.table import Table
from torch import Tensor

from regroup.kernels.program.peak import peak_gflops
from regroup.ops.backends import backends, quickest
from regroup.ops.passes import PASSES, Call
from regroup.profiling.machine import machine


@dataclass(frozen=True)
class Layer:
    """A convolution that keeps the size of its input: so many channels in and out."""

    channels: int
    width: int
    kernel: tuple[int, ...]
    size: tuple[int, ...]
    images: int

    @property
    def weight(self) -> tuple[int, ...]:
        """Shape of the weights."""
        return (self.channels, self.width, *self.kernel)

    def call(self, last: bool) -> Call:
        """Return what backends are asked for."""
        ones, padding = (1,) * len(self.size), tuple(k // 2 for k in self.kernel)
        x, groups = (self.images, self.channels, *self.size), self.channels // self.width
        return Call(x, self.weight, ones, padding, ones, groups, channels_last=last)

    def __str__(self) -> str:
        """Read like 'depthwise 31, 256 at 1000'."""
        width = "depthwise" if self.width == 1 else f"width {self.width}"
        kernel, size = ("x".join(map(str, numbers)) for numbers in (self.kernel, self.size))
        return f"{width} {kernel}, {self.channels} at {size}"


SOUND = (
    *(Layer(256, 1, (k,), (1000,), 8) for k in (5, 15, 31, 65)),
    *(Layer(256, width, (31,), (1000,), 8) for width in (2, 4, 8)),
)
VIDEO = (
    *(Layer(64, 1, kernel, (8, 28, 28), 2) for kernel in ((3, 3, 3), (1, 3, 3), (3, 1, 1), (5, 3, 3))),
    *(Layer(64, width, (3, 3, 3), (8, 28, 28), 2) for width in (2, 4, 8)),
)


def contenders(layer: Layer) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Return the passes of a layer by contender and format."""
    found: dict[str, dict[str, Callable[[], Tensor]]] = {which: {} for which in PASSES}
    weight = torch.randn(layer.weight)
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
    for name, layout in list(formats.items())[: 1 + (len(layer.size) == 3)]:
        call = layer.call(name == "channels_last")
        x, g = (torch.randn(call.x).contiguous(memory_format=layout) for _ in range(2))
        for who in ("regroup", "PyTorch"):
            for which, arguments in zip(PASSES, ((x, weight, None), (g, weight), (x, g)), strict=True):
                able = quickest(which, call) if who == "regroup" else backends()["aten"]
                found[which][f"{who}, {name}"] = partial(getattr(able, which), *arguments, call)
    return found


def roof(layer: Layer, bandwidth: float) -> float:
    """Return the least seconds of a pass: of its arithmetic, or of reading and writing its tensors once."""
    call = layer.call(False)
    moved = 4 * (math.prod(call.x) + math.prod(call.y))
    return max(2 * call.macs / (peak_gflops() * torch.get_num_threads() * 1e9), moved / bandwidth)


def show(rows: list[dict], bandwidth: float) -> None:
    """Print milliseconds of each pass, each side in its better format, their ratio, and the share."""
    table = Table(box=None)
    for column in ("layer", *PASSES, "together", "of the roof"):
        table.add_column(column.replace("_", " "), justify="left" if column == "layer" else "right")
    for row in rows:
        layer, cells = Layer(**row["layer"]), []
        for which in PASSES:
            theirs, ours = (best(row["seconds"][which], who) * 1e3 for who in ("PyTorch", "regroup"))
            cells.append(f"{theirs:.2f} / {ours:.2f}")
        theirs, ours = (sum(best(row["seconds"][w], who) for w in PASSES) for who in ("PyTorch", "regroup"))
        share = 3 * roof(layer, bandwidth) / ours
        table.add_row(str(layer), *cells, f"{theirs / ours:.2f}x", f"{share:.2f}")
    Console(width=130).print("milliseconds: PyTorch's better format / regroup's", table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=int, choices=(1, 3), help="dimensions")
    parser.add_argument("--match", default="", help="part of a layer's text, such as 'width 8'")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bandwidth, rows = memory_bandwidth(), []
    layers = (*SOUND * (args.only != 3), *VIDEO * (args.only != 1))
    for layer in (layer for layer in layers if args.match in str(layer)):
        found = contenders(layer)
        rows.append({"layer": asdict(layer), "seconds": {w: measure(found[w]) for w in PASSES}})
    show(rows, bandwidth)
    if args.json:
        result = {"machine": machine().to_dict(), "bandwidth": bandwidth, "layers": rows}
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
