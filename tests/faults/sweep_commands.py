"""Damaged files before every command that reads them.

Each row of `COMMANDS` is a command, the files that it reads, and what it must come to where it works in spite
of the damage. In each of them one file at a time is damaged, or exchanged for something else:

    command                     | reads
    ----------------------------|----------------------------------------------------------------------------
    train                       | folders of images, and the cache of what was seen there
    train --resume              | run.json, run.lock, log.jsonl, checkpoints, best, weights
    train --weights, --teacher  | run.json and weights of another run; files of weights
    train --accelerate          | the cache of object code
    compare                     | comparison.json and the rest of the report, times, the directories of runs;
                                | folders of images, both caches
    run                         | run.json and weights of a run; files of weights; object code
    compare --weights, --teacher| run.json and weights of a run
    evaluate                    | run.json and weights of a run; folders of images, the cache of scans
    convert                     | folders of images, the cache of scans
    compile                     | run.json and weights of a run; files of weights; object code
    profile, profile --reach    | run.json and weights of a run

What is made of a network (conversions, exports) is in `sweep_made`, images before `run` are in
`sweep_readers`, files of torchvision's data sets in `sweep_sets`, folders with boxes or masks in
`sweep_tasks`. `models` reads no files, and a plugin is a program: whatever is changed in it is another one.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import regroup
from regroup.loading.trained import Trained
from regroup.training.checkpoint import save_weights
from regroup.training.data import load_data
from tests.data.malformed import encoded, picture
from tests.faults import damage, runs
from tests.faults.standing import Stood
from tests.faults.sweep_readers import TINY

_TRAIN = ("--epochs", "1", "--display", "quiet", "--device", "cpu", "--no-wait")
_COMPARE = ("compare", "--model", "tiny", "--strategies", "grouped:groups=2", "--epochs", "1", "--json")
_COMPARE = (*_COMPARE, "--batch-size", "16", "--device", "cpu", "--no-wait")


@dataclass(frozen=True)
class Command:
    """A command before damaged files.

    Args:
        name: of it.
        argv: the arguments; {} is the place where all files lie.
        reads: patterns of the files that it reads, below that place.
        result: what it came to, by the place and what it printed; None where the damage may change that.
        cache: whether what it finds in the cache is damaged too.
        store: whether the files are objects below a URL.
    """

    name: str
    argv: tuple[str, ...]
    reads: tuple[str, ...] = ()
    result: Callable[[Path, str], object] | None = None
    cache: bool = False
    store: bool = False

    @property
    def place_of_cache(self):
        return "cache-" + re.sub(r"\W+", "-", self.name)


def weights(run):
    """Return what tells the weights that were trained."""
    return lambda place, out: (place / run / "weights" / "weights.safetensors").read_bytes()


def compared(place, out):
    """Return what a comparison found."""
    rows = json.loads(out)["rows"]
    return [(r["strategy"], r["macs"], [(x["accuracy"], x["identity"]) for x in r["runs"]]) for r in rows]


def printed(place, out):
    return json.loads(out)


def train(*argv):
    return ("train", *argv, *_TRAIN, "--out", "{}/new")


def compare(data, out):
    size = () if data == "tiny" else ("--image", "8")
    return (*_COMPARE, "--data", data, "--out", out, *size)


def file(suffix, of="{}/files/a."):
    """A network of ours, from a file of weights; the rest of the arguments are `train`'s."""
    return train("--model", "resnet_small", "--data", "tiny", "--weights", of + suffix, "--new-head")


OF_RUN, _IMAGES = ("run/run.json", "run/weights/*"), ("data/*/*/*.png",)
_FOLDER = ("--data", "{}/data", "--model", "tiny", "--image", "8")
_SAME = ("--data", "{}/../data", "--model", "tiny", "--image", "8")
_PETS = ("--data", "{}/data")
_CONVERT = ("convert", "{}/pets", "--budget", "macs=0.8", "--images", "16", "--choice", "activation")
_CONVERT = (*_CONVERT, "--epochs", "0", "--quiet", "--no-wait", "--out", "{}/new/a")
REPORT = ("report/*.*", "report/times/*", "report/runs/*/*/*.*", "report/runs/*/*/*/*")
EVALUATE = ("--data", "tiny", "--no-time", "--no-compiled", "--json")
_PROFILE = ("profile", "{}/run", "--no-time", "--json")
_GROUPED = (*TINY, "--strategy", "grouped:groups=2")

COMMANDS = (
    Command("train", train(*_FOLDER), _IMAGES),
    Command("train, skipping images", train(*_FOLDER, "--bad-images", "skip"), _IMAGES),
    Command("train from memory", train(*_SAME), (), weights("new"), True),
    Command(
        "train --resume",
        ("train", "--resume", "{}/run", *_TRAIN, "--epochs", "2"),
        ("run/*.*", "run/*/*"),
        weights("run"),
    ),
    Command("train --weights", train(*TINY, "--weights", "{}/run"), OF_RUN, weights("new")),
    Command(
        "train --weights best", train(*TINY, "--weights", "{}/run/best"), ("run/best/*",), weights("new")
    ),
    Command("train --weights FILE", file("safetensors"), ("files/a.safetensors",)),
    Command("train --weights FILE, zip", file("pth"), ("files/a.pth",)),
    Command("train --weights FILE, pickle", file("old.pth"), ("files/a.old.pth",)),
    Command("train --teacher", train(*TINY, "--teacher", "{}/run"), OF_RUN, weights("new")),
    Command("train --accelerate", train(*_GROUPED, "--accelerate"), (), weights("new"), True),
    Command("compare", compare("tiny", "{}/report"), REPORT, compared),
    Command("compare images", compare("{}/data", "{}/new"), _IMAGES),
    Command("compare from memory", compare("{}/../data", "{}/new"), (), compared, True),
    Command("compare --weights", (*compare("tiny", "{}/new"), "--weights", "{}/run"), OF_RUN, compared),
    Command("compare --teacher", (*compare("tiny", "{}/new"), "--teacher", "{}/run"), OF_RUN, compared),
    Command("evaluate", ("evaluate", "{}/run", *EVALUATE), OF_RUN, printed),
    Command("evaluate images", ("evaluate", "{}/pets", *EVALUATE, *_PETS, "--split", "all"), _IMAGES),
    Command(
        "evaluate from memory", ("evaluate", "{}/pets", *EVALUATE, "--data", "{}/../data"), (), printed, True
    ),
    Command("convert images", (*_CONVERT, *_PETS, "--bad-images", "skip"), _IMAGES),
    Command(
        "convert from memory",
        (*_CONVERT, "--data", "{}/../data"),
        (),
        lambda place, out: (place / "new" / "a" / "model.safetensors").read_bytes(),
        True,
    ),
    Command("run", ("run", "{}/run", "--image", "{}/a.png", "--json"), OF_RUN, printed, True),
    Command(
        "run --weights",
        ("run", "resnet_small", "--image", "{}/a.png", "--weights", "{}/files/b.pth"),
        ("files/b.pth",),
    ),
    Command("compile", ("compile", "{}/run", "--json"), OF_RUN, None, True),
    Command(
        "compile --weights",
        ("compile", "resnet_small", "--image", "16", "--weights", "{}/files/b.pth"),
        ("files/b.pth",),
    ),
    Command("profile", _PROFILE, OF_RUN, printed),
    Command("profile --reach", (*_PROFILE, "--reach"), OF_RUN, printed),
)


_GOING_ON = ("train --resume", "compare")


def made(sweep, place):
    """Make all that the commands read, as they leave it themselves."""
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            for n in range(9 if split == "train" else 3):
                path = place / "data" / split / label / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(picture(size=(12 + n, 10)), "PNG"))
    shutil.copytree(place / "data", place.parent / "data")
    (place / "a.png").write_bytes(encoded(picture("L", (6, 6)), "PNG"))
    (place / "files").mkdir()
    torch.manual_seed(0)
    state = regroup.create_model("resnet_small", num_classes=4, in_chans=1).state_dict()
    save_file(state, place / "files" / "a.safetensors")
    torch.save(state, place / "files" / "a.pth")
    torch.save(state, place / "files" / "a.old.pth", _use_new_zipfile_serialization=False)
    torch.save(regroup.create_model("resnet_small", num_classes=1000).state_dict(), place / "files" / "b.pth")
    pets = Trained.on(load_data(place / "data", 8), "wide", {}, None, None)
    save_weights(place / "pets", pets.build(), network=pets.to_json())
    run = ("train", *TINY, *_TRAIN, "--model-ema", "--out", f"{place}/run")
    for argv in (run, compare("tiny", f"{place}/report")):
        assert sweep.command(argv[0], "what will be damaged", *argv)[0] == 0, sweep.said


class Stand:
    """The files of a sweep, whole, and a copy of them in which one at a time is damaged."""

    def __init__(self, sweep, commands, make):
        self.sweep, self.whole, self.place = sweep, sweep.directory / "whole", sweep.directory / "place"
        make(sweep, self.whole)
        shutil.copytree(self.whole, self.place)
        self.parts, self.stood, self.right = {}, Stood(self.whole, self.place), {}
        for command in commands:
            parts = {pattern.partition("/")[0] for pattern in command.reads}
            self.parts[command] = parts | ({command.place_of_cache} if command.cache else set())
            self.stood.learn(parts)
            status, out = self.do(command, "whole")
            assert status == 0, sweep.said
            self.right[command] = command.result and command.result(self.place, out)
            if command.cache:
                shutil.copytree(self.place / command.place_of_cache, self.whole / command.place_of_cache)
            self.stood.learn(self.parts[command] - parts)
            self.stood.restore(*parts)

    def do(self, command, what):
        """Run a command; return its status and what it printed."""
        os.environ["REGROUP_CACHE"] = str(self.place / command.place_of_cache)
        return self.sweep.command(command.name, what, *(a.format(self.place) for a in command.argv))

    def damaged(self, command):
        """Run a command before a damaged file, and put the file right again."""
        chance, reads = self.sweep.chance, command.reads
        reads += (f"{command.place_of_cache}/*/*",) if command.cache else ()
        files = [path for pattern in reads for path in sorted(self.place.glob(pattern)) if path.is_file()]
        file = chance.choice(files)
        ways = damage.OF_OBJECTS if command.store else damage.OF_FILES
        what, sealed = damage.spoil(file, chance, ways), False
        if what == "damaged" and chance.random() < 0.4:
            sealed = damage.seal_again(file)
        what = f"{file.relative_to(self.place)} {what}{' and sealed again' * sealed}"
        status, out = self.do(command, what)
        if status == 0 and not sealed and self.right[command] is not None:
            result = command.result(self.place, out)
            if result != self.right[command]:
                self.sweep.fail(command.name, what, "another result", str(result)[:200])
        self.stood.restore(*self.parts[command])

    def restore(self):
        """Put everything right."""
        self.stood.restore(*set().union(*self.parts.values()))


def swept(sweep, commands, make=made):
    """Damage one file at a time before each command; `make` makes what they read."""
    commands = [command for command in commands if command.name.startswith(sweep.only)]
    with runs.registered(), pytest.MonkeyPatch.context() as patch:
        runs.converts_at_once(patch)
        stand = Stand(sweep, commands, make)

        def turn(n):
            for command in commands:
                stand.damaged(command)

        sweep.each(turn, stand.restore)


def directories(sweep):
    """What is gone on with in a damaged directory: a run, and a comparison."""
    swept(sweep, [command for command in COMMANDS if command.name in _GOING_ON])


def folders(sweep):
    """What reads folders of images."""
    swept(sweep, [command for command in COMMANDS if command.reads == _IMAGES])


def commands(sweep):
    """All other commands."""
    others = [command for command in COMMANDS if command.name not in _GOING_ON and command.reads != _IMAGES]
    swept(sweep, others)
