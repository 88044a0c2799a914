"""Measure which group counts are fast on this machine, for a shape or every convolution of a network."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from regroup.profiling.groups import Layer, Speeds


@dataclass(frozen=True)
class Options:
    """Which convolutions, and how long to measure."""

    model: tyro.conf.Positional[str | None] = None
    """A name of ours (`regroup models`), of timm's or of torchvision's; or a run of `regroup train`."""
    conv: str | None = None
    """A shape instead of a network: in,out,kernel,size or in,out,kernel,size,stride, such as 128,128,3,28."""
    groups: str | None = None
    """Only these numbers of groups, such as 1,8,32; none: all that a layer can have."""
    batch: int = 1
    """Images in the input."""
    image: int | None = None
    """Height and width of the network's input image; none: what it expects."""
    channels: int | None = None
    """Channels of the input image; none: 3, or those of the run's images."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Threads to time with; none: as many as PyTorch takes."""
    seconds: float = 0.1
    """Time to spend on each figure, of which every number of groups of every layer has eight."""
    out: Path | None = None
    """Directory to write the figures to, as data (speeds.json) and pictures (forward.svg, training.svg)."""
    json: bool = False
    """Print the figures as JSON; times are seconds."""
    quiet: bool = False
    """Say nothing while it runs."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further networks."""


def run(options: Options) -> int:
    """Measure, print the table, write data and pictures."""
    import json

    import torch

    from regroup.cli._network import check_number
    from regroup.errors import ConfigError
    from regroup.profiling.groups import bench
    from regroup.report.speeds import write_speeds

    check_number("batch", options.batch)
    check_number("threads", options.threads)
    if not 0 < options.seconds < float("inf"):
        raise ConfigError("seconds", options.seconds, "a number above 0")
    layers, groups = _layers(options), _numbers("groups", options.groups, "numbers such as 1,8,32")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    silent = options.quiet or options.json
    speeds = bench(
        layers,
        batch=options.batch,
        groups=groups,
        seconds=options.seconds,
        say=(lambda line: None) if silent else _say,
    )
    written = None if options.out is None else write_speeds(speeds, options.out)
    if options.json:
        print(json.dumps(speeds.to_dict(), indent=1))
        return 0
    _print(speeds)
    if written is not None:
        print(f"data: {written} (forward.svg and training.svg beside it)")
    return 0


def _layers(options: Options) -> list[Layer]:
    import torch

    from regroup.cli._network import choose
    from regroup.errors import ConfigError
    from regroup.profiling.groups import layers_of

    if (options.model is None) == (options.conv is None):
        given = "neither" if options.model is None else "both"
        raise ConfigError("model", given, "a network, or --conv in,out,kernel,size, not both")
    if options.conv is not None:
        return [_shape(options.conv)]
    chosen = choose(str(options.model), channels=options.channels, plugins=options.plugin)
    images = torch.zeros(chosen.shape(options.image))
    chosen.check(images)
    found = layers_of(chosen.model, images)
    if not found:
        raise ConfigError("model", options.model, "a network that convolves images")
    return found


def _shape(text: str) -> Layer:
    from regroup.errors import ConfigError
    from regroup.profiling.groups import Layer

    allowed = "in,out,kernel,size or in,out,kernel,size,stride, such as 128,128,3,28"
    numbers = _numbers("conv", text, allowed) or []
    if len(numbers) not in (4, 5):
        raise ConfigError("conv", text, allowed)
    inputs, outputs, kernel, size, stride = (*numbers, 1)[:5]
    padding = kernel // 2
    if size + 2 * padding < kernel:
        raise ConfigError("conv", text, "a size that the kernel fits into")
    sizes = (kernel,) * 2, (stride,) * 2, (padding,) * 2, (1, 1), (size,) * 2
    return Layer((text,), inputs, outputs, *sizes)


def _numbers(name: str, text: str | None, allowed: str) -> list[int] | None:
    from regroup.errors import ConfigError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 1 << 20 for part in parts):
        raise ConfigError(name, text, allowed)
    return [int(part) for part in parts]


def _print(speeds: Speeds) -> None:
    from regroup.cli._table import say, show

    show(speed_table(speeds), ("promised",))
    print()
    say("speed-up over the dense layer in PyTorch; each in the better of the two memory formats")
    for curve in speeds.layers:
        best = {way: curve.best(way).groups for way in ("forward", "training")}
        say(f"{curve.layer}: fastest with {best['forward']} groups forward, {best['training']} in training")
    say(f"batch {speeds.batch}, on {speeds.machine}")


def speed_table(speeds: Speeds) -> Table:
    """Return a row for each layer and number of groups; * marks those that a network has."""
    from rich.table import Table

    from regroup.errors import printable
    from regroup.profiling.groups import WAYS, WHO
    from regroup.report import text

    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for name in ("groups", "promised", *(f"{who}, {way}" for way in WAYS for who in WHO)):
        table.add_column(name, justify="right", no_wrap=True)
    for curve in speeds.layers:
        names = curve.layer.names
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        named = f"{printable(names[0])}{more}: " if curve.layer.groups > 1 or more else ""
        for i, point in enumerate(curve.points):
            mark = "*" if point.groups == curve.layer.groups else ""
            cells = [
                f"{text.milliseconds(1e3 * point.seconds[way][who])} {text.times(point.measured[way][who])}"
                for way in WAYS
                for who in WHO
            ]
            first = f"{named}{curve.layer}" if i == 0 else ""
            table.add_row(first, f"{mark}{point.groups}", text.times(point.promised), *cells)
    return table


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
