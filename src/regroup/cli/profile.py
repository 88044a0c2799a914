"""Show what each layer of a network costs: parameters, MACs, bytes, measured time, reach."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from regroup.cli._network import Chosen
    from regroup.profiling.profile import LayerProfile, Profile


@dataclass(frozen=True)
class Options:
    """What to profile, and how far to look into it."""

    model: tyro.conf.Positional[str]
    """A name of ours (`regroup models`), timm's or torchvision's; a run of `regroup train`; an ONNX file."""
    image: int | None = None
    """Height and width of the input image; none: 224, or those of the run's images."""
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
    device: str = "cpu"
    """Where the time is measured."""
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

        if chosen.trained:
            raise ConfigError("strategy", options.strategy, f"left out for a run: {options.model} is trained")
        print(replace(chosen.model, options.strategy, options.where), file=sys.stderr)
    return chosen


def _print(found: Profile, options: Options) -> None:
    from regroup.cli._table import say, show

    show(layer_table(found, options.depth), ("FLOPs/byte", "rearranged", "dense", "ideal", "output", "bytes"))
    print()
    for line in summary(found):
        say(line)


def layer_table(found: Profile, depth: int | None) -> Table:
    """Return one row for each module down to `depth` levels; columns without figures are left out."""
    from rich.table import Table

    from regroup.errors import printable
    from regroup.report import text

    timed = found.time is not None
    reached = any(layer.fill is not None for layer in found.layers())
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "what", "output"):
        table.add_column(name, no_wrap=True)
    figures = ["params", "MACs", "of all", "ideal", "dense", "bytes", "rearranged", "FLOPs/byte"]
    for name in [*figures, *(["time", "of all"] if timed else []), *(["reach"] if reached else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for level, layer in _levels(found.root, depth):
        cost = layer.cost
        cells = [
            _count(cost.parameters),
            _count(cost.macs),
            text.percent(found.share(layer)) if cost.macs else "",
            _count(cost.ideal_macs) if cost.ideal_macs != cost.macs else "",
            _count(cost.dense_macs) if cost.dense_macs != cost.macs else "",
            _count(cost.bytes),
            _count(cost.bytes_rearranged),
            f"{cost.intensity:.1f}" if cost.macs else "",
        ]
        if timed:
            milliseconds = None if layer.time is None else 1e3 * layer.time.median
            share = None if layer.time is None else found.share(layer, "time")
            cells += [text.milliseconds(milliseconds), text.percent(share)]
        if reached:
            cells.append(text.percent(layer.fill))
        short = printable(layer.name.rpartition(".")[2]) or "(network)"
        output = "x".join(map(str, layer.output))
        table.add_row("  " * level + short, f"{layer.kind} {layer.detail}".strip(), output, *cells)
    return table


def summary(found: Profile) -> Iterator[str]:
    """Yield the totals in words; MACs and FLOPs both, so that nobody takes one for the other."""
    from regroup.report import text

    total = found.total
    run = "a training step" if found.training else "inference"
    inputs = ", ".join("x".join(map(str, shape)) for shape in found.inputs)
    yield f"input {inputs}, {run}"
    yield f"{total.parameters:,} parameters"
    yield f"{_unit(total.macs, 'MACs')} executed = {_unit(2 * total.macs, 'FLOPs')} (1 MAC = 2 FLOPs)"
    if total.ideal_macs != total.macs:
        yield f"{_unit(total.ideal_macs, 'MACs')} if masked weights were not multiplied"
    if total.dense_macs != total.macs:
        ratio = total.dense_macs / max(1, total.macs)
        yield f"{_unit(total.dense_macs, 'MACs')} if every layer were dense: {ratio:.1f} times as many"
    yield (
        f"{_unit(total.bytes, 'B')} read and written, of which {_unit(total.bytes_rearranged, 'B')} by "
        f"gathers, shuffles, concatenations and copies; {total.intensity:.1f} FLOPs/byte"
    )
    yield f"{text.count(total.activations)} activations (outputs of convolutions and linear layers)"
    if found.uncounted:
        yield f"without a formula, counted as 0 MACs: {', '.join(found.uncounted)}"
    yield from _measured(found)


def _measured(found: Profile) -> Iterator[str]:
    if found.time is not None:
        low, median, high = (1e3 * t for t in (found.time.low, found.time.median, found.time.high))
        rate = 2 * found.total.macs / found.time.median / 1e9 if not found.training else None
        speed = f", {rate:.1f} GFLOP/s" if rate else ""
        noise = (
            ""
            if found.time.verdict == "quiet"
            else f"; this timing is {found.time.verdict}: the machine was not idle"
        )
        yield f"inference took {median:.3g} ms (half of the runs {low:.3g} .. {high:.3g} ms){speed}{noise}"
        yield f"on {found.machine}"
    if found.mixing is not None:
        if found.mixing.depth is None:
            yield f"channels that enter {found.mixing.start} are never all mixed"
        else:
            layers = "layer" if found.mixing.depth == 1 else "layers"
            yield f"all channels are mixed after {found.mixing.depth} {layers} (from {found.mixing.start} on)"
        if found.mixing.assumed:
            yield f"reach assumes that these mix everything: {', '.join(found.mixing.assumed)}"


def _levels(layer: LayerProfile, depth: int | None, level: int = 0) -> Iterable[tuple[int, LayerProfile]]:
    yield level, layer
    if depth is None or level < depth:
        for part in layer.parts:
            yield from _levels(part, depth, level + 1)


def _unit(number: int, unit: str) -> str:
    """Return '347 MMACs', '12 MACs'."""
    from regroup.report import text

    return text.count(number) + ("" if number >= 1000 else " ") + unit


def _count(number: int) -> str:
    from regroup.report import text

    return text.count(number) if number else ""
