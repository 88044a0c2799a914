"""Small runs and comparisons for the tests of faults: an epoch takes a moment."""

import dataclasses
import functools
import hashlib
import io
import os
import tempfile
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

import pytest
import torch
import tyro
from torch import nn

import regroup
from regroup.cli import convert
from regroup.cli.compare import _write
from regroup.comparison import runner, timing
from regroup.comparison.result import TimePerImage
from regroup.comparison.settings import CompareConfig
from regroup.conversion import blocks
from regroup.loading.trained import Trained
from regroup.networks import anywhere
from regroup.report import charts
from regroup.training import TrainConfig, train
from regroup.training.checkpoint import save_weights
from regroup.training.data import data_sets, load_data
from regroup.training.identity import Origin
from tests.conversion import clock
from tests.faults.tiny import Tiny
from tests.training.cases import data

MOMENT = TimePerImage(0.2, 0.1, 0.3)


def measured(models, images, say):
    return {name: {"eager": MOMENT} for name in models}


def network():
    torch.manual_seed(5)
    return Tiny()


def trained(directory, **changes):
    """Train, or go on, in `directory`, and return the weights' hash."""
    settings = {
        "epochs": 2,
        "batch_size": 16,
        "lr": 0.05,
        "device": "cpu",
        "display": "quiet",
        "resume": True,
    }
    more = {name: changes.pop(name) for name in ("wait",) if name in changes}
    model = network()
    origin = Origin(said={"model": "tiny"}, document={"model": "tiny"})
    train(model, data(32), TrainConfig(**{**settings, "output": directory, **changes}), origin=origin, **more)
    return digest(model)


def trained_shared(directory):
    """The same in processes that share the network's channels."""
    return trained(directory, devices="groups=2")


def compared_elsewhere(directory):
    """The same with its trainings in processes that outlive this one, as those on other machines do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "check_engine", lambda on: None)
        patch.setattr(runner, "results", _on_machines)
        return compared(directory, on="forks", cpus=1)


def _on_machines(on, work, tasks, **how):
    """Yield what each task comes to, as `regroup.comparison.clusters.results`."""
    begun = []
    for task in tasks:
        read, write = os.pipe()
        if not (pid := os.fork()):
            with suppress(BaseException):
                os.write(write, work(task).encode())
            os._exit(0)
        os.close(write)
        begun.append((pid, read))
    for number, (pid, read) in enumerate(begun):
        with os.fdopen(read) as answer:
            text = answer.read()
        os.waitpid(pid, 0)
        yield number, text


def compared(directory, **changes):
    """Compare two groupings in `directory`, write the report, and return what was found."""
    options = {"strategies": ("grouped:groups=2", "grouped:groups=3"), "epochs": 1, **changes}
    with registered():
        config = CompareConfig(data="tiny", backbone="tiny", batch_size=16, out=Path(directory), **options)
        result = runner.compare(
            config, say=lambda line: None, keep=lambda found, home: _write(found, config.out, home)
        )
    return summary(result)


def compiled(directory):
    """Compile a network with the directory as the cache of its kernels, and return what it computes."""
    os.environ["REGROUP_CACHE"] = str(directory)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4)).eval()
    x = torch.randint(-3, 4, (2, 3, 9, 9)).float()
    return regroup.compile(model, x)(x).sum((0, 2, 3)).tolist()


CONVERTED = ("model.safetensors", "plan.json", "network.json")
"""Files of a converted network that are equal to the bit, whatever was interrupted."""


@functools.cache
def _dense():
    place = tempfile.TemporaryDirectory()
    with registered():
        network = Trained.on(load_data("tiny"), "wide", {}, None, None)
        save_weights(Path(place.name) / "dense", network.build(), network=network.to_json())
    return place


def dense():
    """Return the directory of a network to convert, which goes with this process and not with its forks."""
    return Path(_dense().name) / "dense"


def conversion(model, out):
    """Return the arguments of a conversion of a layer, which is then trained for a moment."""
    few = ("--data", "tiny", "--images", "16", "--epochs", "1")
    return ("convert", model, "--budget", "macs=0.8", "--choice", "activation", *few, "--quiet", "--out", out)


def converts_at_once(patch):
    """Let conversions take the times of a clock that knows, repair blocks in a moment, and sync nothing."""
    patch.setattr(os, "fsync", lambda handle: None)  # nobody pulls the plug here
    clock.put(patch)
    patch.setattr(blocks, "BlockConfig", functools.partial(blocks.BlockConfig, steps=2))


def converted(directory, wait=True):
    """Convert, or go on, in `directory`, and return the hashes of what came out."""
    arguments = list(map(str, conversion(dense(), directory)[1:]))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()), registered():
        converts_at_once(patch)
        options = tyro.cli(convert.Options, args=arguments)
        assert convert.run(dataclasses.replace(options, wait=wait)) == 0
    found = [(Path(directory) / name).read_bytes() for name in CONVERTED]
    return [hashlib.sha256(content).hexdigest() for content in found]


def summary(result):
    """What a comparison found, without what no two of them share."""
    return {
        row.strategy: [row.cause, row.macs, [[r.seed, r.accuracy, r.curves, r.identity] for r in row.runs]]
        for row in result.rows
    }


@contextmanager
def registered():
    """Let the tiny networks and data set be known by name; what is slow is not measured, drawn or parsed."""

    def create(name, *, num_classes=None, in_chans=3, **options):
        if name not in ("tiny", "wide"):
            return known(name, num_classes=num_classes, in_chans=in_chans, **options)
        return Tiny(num_classes or 1000, in_chans, width=8 if name == "tiny" else 16)

    known = anywhere.create_any_model
    instead = {
        **dict.fromkeys([(place, "create_any_model") for place in (anywhere,)], create),
        (tyro, "cli"): remembered(tyro.cli),
        (runner, "reach_of_layer"): lambda *arguments: {},
        (runner, "correlation_of_layers"): lambda *arguments: {},
        (timing, "_measured"): lambda *arguments: measured(*arguments),
        (charts, "tradeoff"): lambda *arguments: "",
        (charts, "curves"): lambda *arguments: "",
    }
    before = {(module, name): getattr(module, name) for module, name in instead}
    data_sets._items["tiny"] = lambda image=None: data(32)
    for (module, name), function in instead.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name), function in before.items():
            setattr(module, name, function)
        del data_sets._items["tiny"]


@functools.cache
def remembered(parse):
    """Return tyro's `cli` that reads the same arguments only once: it takes longer than many a turn."""
    known = {}

    def cli(options, *, args, **more):
        key = options, tuple(args), repr(more)
        if key not in known:
            known[key] = parse(options, args=args, **more)
        return known[key]

    return cli


def digest(model):
    seen = hashlib.sha256()
    for name, value in model.state_dict().items():
        seen.update(name.encode() + value.numpy().tobytes())
    return seen.hexdigest()


def contents(directory):
    """Everything below a directory but locks and dates: what must be equal after any interruption."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            found[str(path.relative_to(directory))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
