"""Regroup a trained network within a budget of measured time, multiply-adds or parameters."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Callable

    from regroup.cli._network import Chosen
    from regroup.conversion.convert import ConvertConfig
    from regroup.loading.trained import Trained
    from regroup.training import DataSet, TrainConfig

MEMORY, TRAINING = "memory.json", "training"
"""What is gone on from, in the directory of a conversion that is under way."""

_EXAMPLE = {"model": "resnet_small", "data": "glyphs", "epochs": 8, "batch_size": 128, "lr": 0.1}
"""What is trained first where no network is named."""


@dataclass(frozen=True)
class Options:
    """Without options: train a dense ResNet on glyphs, and convert it."""

    model: tyro.conf.Positional[str | None] = None
    """A run of `regroup train`; or a name of ours, timm's or torchvision's, with --pretrained or --weights;
    none: a small ResNet that is trained on glyphs first."""
    data: str | None = None
    """Data set: a name such as digits or cifar10, or a folder of images; none: that of the run."""
    budget: tuple[str, ...] = ("time=0.5",)
    """What it may cost, one or more: shares of dense, as time=0.5, macs=0.5, params=0.5; or ms=3."""
    out: Path = Path("converted")
    """Directory for the converted network and its report; interrupted, the same command goes on."""
    choice: str = "gain"
    """How groups are chosen: contiguous, random, magnitude, activation, gain or overlapping."""
    exclude: tuple[str, ...] = ()
    """Patterns of names of layers that stay as they are."""
    images: int = 512
    """Images for calibration."""
    epochs: int = 4
    """Passes over the training images at the end, with the dense network as the teacher; 0: none."""
    lr: float = 0.02
    """Learning rate of these."""
    batch: int = 1
    """Images in a call that is timed."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Threads of the engine; none: as many as PyTorch takes."""
    pretrained: bool = False
    """Load the weights that the model hub has for it."""
    weights: Path | None = None
    """File of weights, under the names that the network has."""
    seed: int = 0
    """Seed of everything random."""
    dry_run: bool = False
    """Say what each layer would become, and how long the network would take; change nothing."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do about images that cannot be read."""
    download: bool = False
    """Download a data set that is not there."""
    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Say nothing while it goes on, but that another process is waited for."""
    wait: bool = True
    """Wait while another process uses the output directory; else end with a line that says which."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further networks, strategies and choices."""


def run(options: Options) -> int:
    """Convert, print what came out, and write the directory."""
    from regroup.cli._network import check_number
    from regroup.conversion.budget import parse_budget
    from regroup.files.disk import make_directories, remove_partial
    from regroup.files.lock import Lock

    check_number("threads", options.threads)
    check_number("batch", options.batch)
    budget = parse_budget(",".join(options.budget))
    _check_out(options.out)
    place = options.out.absolute()  # "." has no name
    work = place.with_name(place.name + ".work")
    config = _config(options, work)
    say = _silent if options.quiet or options.json else _say
    make_directories(place.parent)
    with Lock(place.with_name(f"{place.name}.lock"), of=options.out, wait=options.wait, say=_say) as lock:
        remove_partial(place.parent, place.name)
        try:
            return _converted(options, budget, config, work, say)
        finally:
            lock.remove()


def _converted(
    options: Options, budget: dict[str, float], config: ConvertConfig, work: Path, say: Callable[[str], None]
) -> int:
    """Do all of it, alone in the directory."""
    import json

    from regroup.conversion.convert import convert
    from regroup.conversion.identity import identify
    from regroup.conversion.memory import MemoryFile
    from regroup.loading.converted import save_converted
    from regroup.profiling.machine import machine
    from regroup.report.converted import figures, page
    from regroup.training.data import from_anywhere
    from regroup.training.directory import prepare

    _check_work(work)
    chosen, dense, data = _network_and_data(options, work)
    prepare(work)
    memory = MemoryFile(work / MEMORY, identify(chosen.model, data, budget, config, chosen.plugins))
    if memory.resumed:
        say(f"going on from {work}")
    elif memory.differences:
        say(f"{work} is of another conversion: {', '.join(map(str, memory.differences[:3]))}")
    found = convert(chosen.model, data, budget, config, dry_run=options.dry_run, say=say, memory=memory)
    print(json.dumps(figures(found), indent=1) if options.json else found)
    if options.dry_run or not found.pays:
        return 0
    said = page(found, dense.name, str(machine()))
    source = from_anywhere(chosen.data(options.data))
    save_converted(options.out, found.model, dense, found.plan, figures(found), said, source)
    _remove(work, place=options.out.absolute())
    if not options.json:
        print(f"{options.out}: regroup.load and every command take it; {options.out / 'report.html'}")
    return 0


def _config(options: Options, work: Path) -> ConvertConfig:
    from regroup.conversion.assessment import Scope
    from regroup.conversion.blocks import BlockConfig
    from regroup.conversion.convert import ConvertConfig
    from regroup.conversion.regrouping import Method
    from regroup.errors import ConfigError

    if options.epochs < 0:
        raise ConfigError("epochs", options.epochs, "an int of at least 0")
    return ConvertConfig(
        method=Method(options.choice, seed=options.seed),
        scope=Scope(exclude=options.exclude),
        blocks=BlockConfig(seed=options.seed),
        images=options.images,
        training=_training(options, work) if options.epochs else None,
        batch=options.batch,
        threads=options.threads,
    )


def _training(options: Options, work: Path) -> TrainConfig:
    from regroup.training import TrainConfig

    return TrainConfig(
        epochs=options.epochs,
        lr=options.lr,
        batch_size=128,
        seed=options.seed,
        device="cpu",
        output=work / TRAINING,
        resume=True,
        display="quiet" if options.quiet or options.json else "auto",
    )


def _network_and_data(options: Options, work: Path) -> tuple[Chosen, Trained, DataSet]:
    """Return the dense network, how it is built again, and images as it is shown them.

    Raises:
        ConfigError: it has no weights of its own, or cannot be built again.
    """
    from regroup.cli._network import choose
    from regroup.errors import ConfigError
    from regroup.loading.converted import dense_of
    from regroup.loading.trained import Trained

    name = str(_example(options, work)) if options.model is None else options.model
    chosen = choose(name, weights=options.weights, pretrained=options.pretrained, plugins=options.plugin)
    named = chosen.loaded is None
    if named and not options.pretrained and options.weights is None:
        allowed = (
            "a network that is trained: a run of `regroup train`, or a name with --pretrained or --weights"
        )
        raise ConfigError("model", name, allowed)
    dense = None if named else dense_of(Path(name))
    data = _shown(options, chosen)
    return chosen, dense or Trained.on(data, name, {}, None, None), data


def _shown(options: Options, chosen: Chosen) -> DataSet:
    import torch

    from regroup.loading.shown import shown

    source, wanted = chosen.data(options.data), chosen.input
    chosen.check(torch.zeros(1, *wanted.shape))
    with torch.inference_mode():
        count = chosen.model(torch.zeros(1, *wanted.shape)).shape[1]
    return shown(
        source,
        wanted,
        count,
        chosen.namings(count),
        bad_images=options.bad_images,
        download=options.download,
    )


def _example(options: Options, work: Path) -> Path:
    """Return the run that is converted where none is named; it is trained if it is not there."""
    from regroup.cli import train

    run = work.with_name(work.name.removesuffix(".work") + "-dense")
    if not (run / "weights").exists():
        if not options.quiet:
            _say(f"training a dense {_EXAMPLE['model']} on {_EXAMPLE['data']} first, into {run}")
        display = "quiet" if options.quiet or options.json else "auto"
        more: dict[str, Any] = {"output": run, "seed": options.seed, "display": display, "device": "cpu"}
        train.run(train.Options(**_EXAMPLE, **more, weight_decay=5e-4, resume=(run,)))
    return run


def _check_out(out: Path) -> None:
    """Require that nothing of others stands where the result is to be.

    Raises:
        ConfigError: it does.
    """
    from regroup.errors import ConfigError
    from regroup.files.sealed import obstacle
    from regroup.loading.converted import SIGN

    if note := obstacle(out, SIGN, alone=True):
        raise ConfigError("out", str(out), "a new directory, or one of `regroup convert`", note)


def _check_work(work: Path) -> None:
    """Require that what is gone on from, and removed at the end, is a conversion's own.

    Raises:
        ConfigError: something of others stands there.
    """
    from regroup.errors import ConfigError
    from regroup.files.disk import remove_partial

    if not work.exists() and not work.is_symlink():
        return
    for name in (MEMORY, "probe"):  # of a conversion that was killed as it wrote
        remove_partial(work, name)
    names = [path.name for path in work.iterdir()] if work.is_dir() else [work.name]
    others = sorted(set(names) - {MEMORY, TRAINING})
    if others:
        remedy = f"{others[0]} is not of `regroup convert`: move it, or choose another --out"
        raise ConfigError("out", str(work), "absent, or what an interrupted conversion left", remedy)


def _remove(work: Path, place: Path) -> None:
    """Remove what nobody goes on from any more, in one step: half of it would be in the next one's way."""
    from contextlib import suppress

    from regroup.files.disk import disk, partial_name

    aside = partial_name(place)  # which the next conversion removes, if this is killed
    with suppress(OSError):
        disk().rename(work, aside)
        disk().remove(aside)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    pass
