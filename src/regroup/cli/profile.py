"""Show what each layer of a network costs: parameters, MACs, bytes, measured time, reach."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from regroup.cli._network import Chosen
    from regroup.profiling.profile import Profile


@dataclass(frozen=True)
class Options:
    """What to profile, and how far to look into it."""

    model: tyro.conf.Positional[str]
    """A name of ours (`regroup models`), timm's or torchvision's; a run of `regroup train`; an ONNX file."""
    image: int | None = None
    """Height and width of the input image; none: what it expects."""
    batch: int = 1
    """Images in the input; every figure is for all of them."""
    channels: int | None = None
    """Channels of the input image; none: 3, or those of the run's images."""
    depth: Annotated[int | None, tyro.conf.arg(aliases=["-d"])] = 2
    """Levels of modules to show; None: all of them."""
    json: bool = False
    """Print the whole profile as JSON: units are MACs, bytes and seconds."""
    time: bool = True
    """Measure the time of each layer, on the CPU or on --device."""
    reach: bool = False
    """Also show which share of the channels reach each other in each layer, and how deep mixing takes."""
    training: bool = False
    """Count a training step, forward and backward, instead of inference."""
    strategy: str | None = None
    """Grouping put into the network first, such as grouped:groups=4; none: the network as it is."""
    where: str | None = None
    """Pattern of the names of the convolutions that get the grouping; none: all larger than 1x1."""
    seconds: float = 1.0
    """Time to spend on measuring."""
    device: str | None = "cpu"
    """Where the time is measured: cpu, cuda, cuda:1, ...; None: a GPU if there is one."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further strategies and networks."""


def run(options: Options) -> int:
    """Profile the network and print it."""
    import torch

    from regroup.cli._network import check_number
    from regroup.errors import ConfigError
    from regroup.profiling.profile import profile
    from regroup.training.processes import find_device

    check_number("batch", options.batch)
    if options.depth is not None and options.depth < 0:
        raise ConfigError("depth", options.depth, "an int of at least 0, or None")
    if not 0 < options.seconds < float("inf"):
        raise ConfigError("seconds", options.seconds, "a number above 0")
    chosen = _choose(options)
    device = find_device(options.device)
    model = chosen.model.to(device)
    images = torch.rand(chosen.shape(options.image, options.batch), device=device)
    chosen.check(images)
    found = profile(
        model,
        images,
        training=options.training,
        time=options.time,
        reach=options.reach,
        seconds=options.seconds,
    )
    if options.json:
        print(found.to_json())
        return 0
    _print(found, options)
    return 0


def _choose(options: Options) -> Chosen:
    from regroup.cli._network import choose
    from regroup.errors import ConfigError

    chosen = choose(options.model, channels=options.channels, plugins=options.plugin)
    if options.strategy is not None:
        from regroup.conversion.replace import replace

        if chosen.loaded:
            raise ConfigError("strategy", options.strategy, f"left out for a run: {options.model} is trained")
        changes = replace(chosen.model, options.strategy, options.where, weights="fresh")
        if changes.misfit:
            raise ConfigError("strategy", options.strategy, "one that fits the network", changes.misfit)
        print(changes, file=sys.stderr)
    return chosen


def _print(found: Profile, options: Options) -> None:
    from regroup.cli._table import say, show
    from regroup.profiling.table import summary

    show(layer_table(found, options.depth), ("FLOPs/byte", "rearranged", "dense", "ideal", "output", "bytes"))
    print()
    for line in summary(found):
        say(line)


def layer_table(found: Profile, depth: int | None) -> Table:
    """Return one row for each module down to `depth` levels; columns without figures are left out."""
    from rich.table import Table

    from regroup.profiling.table import columns, rows

    table = Table(box=None, pad_edge=False)
    for name, is_number in columns(found):
        table.add_column(name, no_wrap=True, justify="right" if is_number else "left")
    for cells in rows(found, depth):
        table.add_row(*cells)
    return table
