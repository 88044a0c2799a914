"""The convolution operator and training steps: regroup against PyTorch in both of its memory formats.

python -m benchmarks.operator
python -m benchmarks.operator --only layers --batch 8 --json operator.json

Layers: each of the three passes by itself. Steps: forward, loss, backward and SGD of whole networks, plain
and accelerated. Issue: the script of PyTorch's issue 70954. All in one process, in bursts after pauses, each
contender in turn; the best of the bursts counts, since a neighbour's load slows whole bursts. The share of
the roof is the least time that the machine's arithmetic and memory allow, over the time taken.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import regroup
from regroup.kernels.program.peak import peak_gflops
from regroup.networks.anywhere import create_any_model
from regroup.ops.backends import backends, quickest
from regroup.ops.passes import PASSES, Call
from regroup.profiling.machine import machine
from regroup.testing.workloads import TRAINED, Workload, narrow

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_PAUSE, _BURST, _ROUNDS = 0.02, 0.04, 5
"""Seconds before and of a burst, and bursts of each contender."""


def kind(layer: Workload) -> str:
    """Return whether it is depthwise, or how wide its groups are, and its kernel."""
    width = "depthwise" if layer.group_width == 1 else f"width {layer.group_width}"
    return f"{width} {layer.kernel}x{layer.kernel}"


def measure(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the seconds of one call of each: the least mean of its bursts."""
    found = {name: float("inf") for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(_ROUNDS):
        for name, call in contenders.items():
            time.sleep(_PAUSE)
            call()
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < _BURST or count < 2:
                call()
                count += 1
            found[name] = min(found[name], (time.perf_counter() - start) / count)
    return found


def passes(layer: Workload, batch: int) -> dict[str, dict[str, float]]:
    """Return the seconds of each pass of a layer by contender."""
    padding, found = (layer.kernel // 2,) * 2, {}
    weight = torch.randn(layer.outputs, layer.group_width, layer.kernel, layer.kernel)
    contenders: dict[str, dict[str, Callable[[], Tensor]]] = {which: {} for which in PASSES}
    for name, layout in FORMATS.items():
        x = torch.randn(batch, layer.inputs, layer.size, layer.size).contiguous(memory_format=layout)
        strides = (layer.stride,) * 2
        g = F.conv2d(x, weight, None, strides, padding, 1, layer.groups)
        g = torch.randn_like(g).contiguous(memory_format=layout)
        shapes, last = (tuple(x.shape), tuple(weight.shape)), name == "channels_last"
        call = Call(*shapes, strides, padding, (1, 1), layer.groups, channels_last=last)
        for who in ("regroup", "PyTorch"):
            able = {w: quickest(w, call) if who == "regroup" else backends()["aten"] for w in PASSES}
            for which, arguments in zip(PASSES, ((x, weight, None), (g, weight), (x, g)), strict=True):
                run = getattr(able[which], which)
                contenders[which][f"{who}, {name}"] = partial(run, *arguments, call)
    for which in PASSES:
        found[which] = measure(contenders[which])
    return found


def roof(layer: Workload, batch: int, bandwidth: float) -> float:
    """Return the least seconds of a pass: of its arithmetic, or of reading and writing its tensors once."""
    flops = 2 * batch * layer.macs
    moved = 4 * batch * (layer.inputs * layer.size**2 + layer.outputs * layer.out**2)
    return max(flops / (peak_gflops() * torch.get_num_threads() * 1e9), moved / bandwidth)


def memory_bandwidth() -> float:
    """Return the bytes a second that a copy of a large tensor reads and writes."""
    x = torch.zeros(1 << 24)
    y = torch.empty_like(x)
    return 2 * 4 * x.numel() / measure({"copy": lambda: y.copy_(x)})["copy"]


def steps(name: str, batch: int, size: int) -> dict[str, float]:
    """Return the seconds of a training step of a network, plain and accelerated."""
    contenders = {}
    for label, layout in FORMATS.items():
        for ours in (False, True):
            torch.manual_seed(0)
            model = create_any_model(name, num_classes=100).train().to(memory_format=layout)  # type: ignore[call-overload]
            if ours:
                regroup.accelerate(model)
            optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
            x = torch.randn(batch, 3, size, size).contiguous(memory_format=layout)
            contenders[f"{'regroup' if ours else 'PyTorch'}, {label}"] = _step(
                model, optimizer, x, torch.arange(len(x)) % 100
            )
    return measure(contenders)


def issue(groups: int, batch: int, size: int, ours: bool) -> dict[str, Callable[[], None]]:
    """Return the training steps of PyTorch's issue 70954, by format: ten 3x3 layers of 128 channels."""
    steps = {}
    for label, layout in FORMATS.items():
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv2d(3, 128, 1)]
        for _ in range(10):
            layers += [nn.Conv2d(128, 128, 3, padding=1, groups=groups), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 1), nn.Sigmoid())
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
        if ours:
            regroup.accelerate(model)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        x = torch.randn(batch, 3, size, size).contiguous(memory_format=layout)
        y = torch.arange(batch).view(-1, 1).remainder(2).float()
        steps[label] = _step(model, optimizer, x, y, F.binary_cross_entropy)
    return steps


def show_issue(batch: int, size: int) -> dict[str, float]:
    """Print and return how much faster training is with 8 groups and more than without."""
    contenders = {"1 PyTorch": issue(1, batch, size, False)}
    for groups in (8, 16, 32, 64, 128):
        contenders |= {f"{groups} PyTorch": issue(groups, batch, size, False)}
        contenders |= {f"{groups} regroup": issue(groups, batch, size, True)}
    flat = {f"{name}, {label}": run for name, by in contenders.items() for label, run in by.items()}
    seconds = measure(flat)
    dense = best(seconds, "1 PyTorch")
    print(f"PyTorch's issue 70954, {batch} images of {size}x{size}: dense {1e3 * dense:.1f} ms a step")
    for groups in (8, 16, 32, 64, 128):
        theirs, ours = (best(seconds, f"{groups} {who}") for who in ("PyTorch", "regroup"))
        print(f"{groups} groups: PyTorch {dense / theirs:.2f}x, regroup {dense / ours:.2f}x")
    return seconds


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return step


def best(seconds: dict[str, float], who: str) -> float:
    """Return the least of one contender's times over both formats."""
    return min(value for name, value in seconds.items() if name.startswith(who))


def show_layers(rows: list[dict], bandwidth: float) -> None:
    """Print milliseconds of the passes of each layer, each side in its better format, and their ratio."""
    table = Table(box=None)
    for column in ("layer", "of", "batch", *PASSES, "together", "of the roof"):
        table.add_column(column.replace("_", " "), justify="left" if column in ("layer", "of") else "right")
    for row in rows:
        layer, cells = Workload(**row["layer"]), []
        totals = {who: sum(best(row["seconds"][w], who) for w in PASSES) for who in ("PyTorch", "regroup")}
        for which in PASSES:
            theirs, ours = (best(row["seconds"][which], who) * 1e3 for who in ("PyTorch", "regroup"))
            cells.append(f"{theirs:.2f} / {ours:.2f} = {theirs / ours:.2f}x")
        together = f"{totals['PyTorch'] / totals['regroup']:.2f}x"
        share = 3 * roof(layer, row["batch"], bandwidth) / totals["regroup"]
        what = f"{kind(layer)}, {layer.outputs} at {layer.size}" + (", stride 2" if layer.stride > 1 else "")
        table.add_row(what, layer.network, str(row["batch"]), *cells, together, f"{share:.0%}")
    Console(width=170).print("milliseconds: PyTorch's better format / regroup's = speed-up", table)


def show_steps(rows: list[dict]) -> None:
    """Print images per second of training."""
    table = Table(box=None)
    order = [f"{who}, {name}" for who in ("PyTorch", "regroup") for name in FORMATS]
    for column in ("network", *order, "speed-up"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        seconds = row["seconds"]
        speeds = [f"{row['batch'] / seconds[name]:.1f}" for name in order]
        table.add_row(row["network"], *speeds, f"{best(seconds, 'PyTorch') / best(seconds, 'regroup'):.2f}x")
    Console(width=140).print("images per second of training", table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("layers", "issue", "steps"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--networks", nargs="+", default=list(TRAINED))
    parser.add_argument("--image", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bandwidth = memory_bandwidth()
    result: dict = {"machine": machine().to_dict(), "bandwidth": bandwidth, "layers": [], "steps": []}
    if args.only in (None, "layers"):
        for layer in narrow():
            for batch in args.batch:
                row = {"layer": asdict(layer), "batch": batch, "seconds": passes(layer, batch)}
                result["layers"].append(row)
        show_layers(result["layers"], bandwidth)
    if args.only in (None, "issue"):
        result["issue"] = show_issue(4, 28)
    if args.only in (None, "steps"):
        for name in args.networks:
            row = {"network": name, "batch": 16, "seconds": steps(name, 16, args.image)}
            result["steps"].append(row)
            show_steps([row])
        show_steps(result["steps"])
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
