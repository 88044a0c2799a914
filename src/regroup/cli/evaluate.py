"""Say how good a network is on labelled images: accuracy, mIoU or mAP, and time for an image."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    import torch
    from torch import nn

    from regroup.cli._network import Chosen
    from regroup.profiling.clock import Timing
    from regroup.training import DataSet
    from regroup.training.data import Batch, Loader
    from regroup.training.tasks import Metrics


@dataclass(frozen=True)
class Options:
    """Which network, on which images."""

    model: tyro.conf.Positional[str]
    """A name of ours (`regroup models`), timm's or torchvision's; a run of `regroup train`; an ONNX file."""
    data: str | None = None
    """Data set: a name such as digits or cifar10, or a folder of images; none: what it was trained on."""
    split: Literal["test", "train", "all"] = "test"
    """Of the data set: what is not trained on, what is, or both, as of a folder that is all for testing."""
    pretrained: bool = False
    """Load the weights that the model hub has for it."""
    weights: Path | None = None
    """File of weights, under the names that the network has."""
    image: int | None = None
    """Height and width of the images; none: what the network expects."""
    batch_size: int = 64
    """Images that are classified at once."""
    compiled: bool = True
    """Run the network as native code on CPUs; else in PyTorch, as on GPUs in any case."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Threads of the compiled network; none: as many as PyTorch takes."""
    time: bool = True
    """Measure the time for an image, in batches."""
    seconds: float = 1.0
    """Time to spend on measuring."""
    device: str | None = "cpu"
    """Where to compute: cpu, cuda, cuda:1, ...; None: a GPU if there is one."""
    workers: int = 0
    """Processes that load images, for data that is not held in memory."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do about images that cannot be read."""
    download: bool = False
    """Download a data set that is not there."""
    json: bool = False
    """Print the figures as JSON: accuracies are percent, times seconds."""
    quiet: bool = False
    """No progress bar."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further networks."""


def run(options: Options) -> int:
    """Evaluate the network and print the figures."""
    import json
    import math

    from regroup.cli._network import check_number, choose
    from regroup.errors import ConfigError
    from regroup.training.data import Loader
    from regroup.training.evaluation import evaluate
    from regroup.training.processes import find_device

    check_number("threads", options.threads)
    check_number("batch_size", options.batch_size)
    if not 0 < options.seconds < math.inf:
        raise ConfigError("seconds", options.seconds, "a number above 0")
    device = find_device(options.device)
    chosen = choose(
        options.model, weights=options.weights, pretrained=options.pretrained, plugins=options.plugin
    )
    data, notes = _data(chosen, options)
    loader = Loader(data, options.batch_size, train=False, workers=options.workers, device=device)
    model, native = _made_ready(chosen, loader, options, device)
    quiet = options.quiet or options.json
    found = evaluate(model, _followed(loader, quiet), data=data)
    timing = _timed(model, loader, options, device) if options.time else None
    if options.json:
        print(json.dumps(_to_json(chosen, data, options, found, timing, native), indent=1))
        return 0
    _print(chosen, data, options, found, timing, native, notes)
    return 0


def _data(chosen: Chosen, options: Options) -> tuple[DataSet, tuple[str, ...]]:
    """Return the images as the network is shown them, the ones that are asked for as the test split."""
    from dataclasses import replace

    import torch

    from regroup.loading.shown import shown
    from regroup.training.tasks import tasks

    source, wanted = chosen.data(options.data), chosen.input_of(options.image)
    example = torch.zeros(chosen.batch or 1, *wanted.shape)
    chosen.check(example)
    if chosen.loaded:
        count = len(chosen.loaded.classes)
    else:
        with torch.inference_mode():
            count = tasks[chosen.task].classes_of(chosen.model, chosen.model(example))
    known = chosen.loaded is not None or options.pretrained
    data = shown(
        source,
        wanted,
        count,
        chosen.namings(count),
        task=chosen.task,
        by_order=not known,
        bad_images=options.bad_images,
        download=options.download,
        testing=None if options.split == "train" else options.split,
    )
    return (replace(data, test=data.train) if options.split == "train" else data), data.notes


def _made_ready(
    chosen: Chosen, loader: Loader, options: Options, device: torch.device
) -> tuple[nn.Module, bool]:
    """Return the network as it is to run, and whether it is compiled."""
    from regroup.cli._compiled import compiled

    if not options.compiled or device.type != "cpu":
        return chosen.ready(chosen.model.to(device)).eval(), False
    shape = (chosen.batch or loader.batch_size, *loader.data.shape)
    quiet = options.quiet or options.json
    return chosen.ready(compiled(chosen, shape, quiet=quiet, threads=options.threads)), True


def _followed(loader: Loader, quiet: bool) -> Iterator[Batch]:
    from regroup.cli._bars import bar

    with bar("batches", len(loader), quiet=quiet) as progress:
        for done, batch in enumerate(loader, 1):
            yield batch
            progress(done, None)


def _timed(model: nn.Module, loader: Loader, options: Options, device: torch.device) -> Timing:
    """Return the time of a whole batch."""
    import torch

    from regroup.profiling.clock import batch_of, measure

    images = batch_of(next(iter(loader)).images, options.batch_size)

    def call() -> object:
        with torch.inference_mode():
            return model(images)

    return measure(call, seconds=options.seconds, device=device)


def _to_json(
    chosen: Chosen, data: DataSet, options: Options, found: Metrics, timing: Timing | None, native: bool
) -> dict[str, Any]:
    from regroup.profiling.machine import machine
    from regroup.training.processes import find_device

    each, size = None, options.batch_size
    if timing is not None:
        each = {n: getattr(timing, n) / size for n in ("median", "low", "high")} | {"verdict": timing.verdict}
    return {
        "network": chosen.name,
        "random_weights": _is_random(chosen, options),
        "data": data.name,
        "split": options.split,
        **found.to_json(),
        "seconds_per_image": each,
        "batch_size": size,
        "compiled": native,
        "machine": machine(find_device(options.device)).to_dict(),
    }


def _print(
    chosen: Chosen,
    data: DataSet,
    options: Options,
    found: Metrics,
    timing: Timing | None,
    native: bool,
    notes: tuple[str, ...],
) -> None:
    from regroup.cli._table import say
    from regroup.errors import printable
    from regroup.profiling.clock import readable
    from regroup.profiling.machine import machine
    from regroup.training.processes import find_device

    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    where = f"{found.images} images of the split {options.split!r}"
    say(f"{printable(chosen.name)} on {printable(data.name)}: {where}")
    for name, text in found.told().items():
        print(f"{name:<18} {printable(text)}")
    if timing is not None:
        size = options.batch_size
        middle, least, most = (readable(s / size) for s in (timing.median, timing.low, timing.high))
        doubt = "" if timing.verdict == "quiet" else f", {timing.verdict}"
        print(f"time for an image  {middle}  ({least} .. {most}{doubt})")
        how = "compiled" if native else "in PyTorch"
        say(f"timed {how}, in batches of {size}, on {machine(find_device(options.device))}")
    if _is_random(chosen, options):
        print("(random weights: give --pretrained or --weights)")


def _is_random(chosen: Chosen, options: Options) -> bool:
    return (
        chosen.loaded is None and chosen.size is None and not options.pretrained and options.weights is None
    )
