"""Every option of every command with values that it does not take, and odd ones: one line, never a traceback.

Options are found by looking at the commands. Each trial is a copy of this process: offline, with little
memory, without a GPU. It ends with status 0 (the value may be one), 1 or 2, and then one line says why. The
short form takes some values of some options; with REGROUP_FAULTS all of them are tried.
"""

import importlib
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import typing
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from regroup.cli import commands, main
from regroup.cli._misuse import options_of
from regroup.loading.trained import Trained
from regroup.training.checkpoint import save_weights
from regroup.training.data import load_data
from tests.processes import in_fork

from . import runs
from .programs import LONG

HUGE = "99999999999999999999"
NUMBERS = ("x", "", "-1", "0", HUGE, "nan", "-inf", "1e400", "1.5", "\u0663")
ODD = ("", "x" * 5000, "a\nb", "caf\udce9")
TEXTS = (*ODD, "zzz", "[", "\x1b[31m", "=", ":", "grouped:groups=", "grouped:groups=nan", "cuda", "meta")
PATHS = (*ODD, "/proc/nowhere/at/all", "/proc/xx", "/dev/null", "FILE", "FOLDER", "PIPE", "LOOP")
SECONDS = 4
"""CPU time for one trial; what is still at work then must have been asked for a huge number."""

SMALL = ("--data", "tiny", "--epochs", "1", "--batch-size", "16", "--no-wait")
TINY = ("--model", "tiny", *SMALL, "--display", "quiet")
BEGUN = {
    "bench": ("--conv", "2,2,1,2", "--seconds", "0.0001", "--quiet"),
    "compare": ("--model", "tiny", *SMALL, "--strategies", "dense", "--json", "--quiet", "--no-time"),
    "convert": ("RUN", "--data", "tiny", "--images", "16", "--epochs", "0", "--dry-run", "--quiet"),
    "evaluate": ("RUN", "--data", "tiny", "--quiet", "--no-time", "--no-compiled"),
    "export": (
        "tiny",
        "--image",
        "8",
        "--channels",
        "1",
        "--quiet",
        "--to",
        "pt2",
        "--no-check",
        "--replace",
    ),
    "compile": ("tiny", "--image", "8", "--channels", "1", "--quiet"),
    "profile": ("tiny", "--image", "8", "--channels", "1", "--no-time"),
    "train": TINY,
}
"""What makes a command work on next to nothing; of others what they require is given by name."""

GIVEN = {"model": "tiny", "image": "IMAGE", "data": "tiny", "run": "FOLDER", "shell": "bash"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("options")
    to_pil_image(load_data("digits").test[0][0]).save(place / "a.png")
    (place / "file").write_text("{}")
    (place / "folder").mkdir()
    os.mkfifo(place / "pipe")
    (place / "loop").symlink_to(place / "loop")
    with runs.registered():
        network = Trained.on(load_data("tiny"), "tiny", {}, None, None)
        save_weights(place / "run", network.build(), network=network.to_json())
    for name in ("rich.table", "regroup.strategies.grouped", "regroup.comparison.runner", "timm"):
        importlib.import_module(name)  # before the copies are made
    return place


def values_of(option):
    """Return texts that are no value of an option, or an odd one."""
    if option.is_switch:
        return ("=maybe",)
    kind = next(kind for kind in option.kinds if kind is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        return ("zzz", "", "x" * 5000)
    if kind in (int, float):
        return NUMBERS if kind is int else [text for text in NUMBERS if text != "1.5"]
    return TEXTS if kind is str else PATHS


def trials():
    """Yield (command, option, text), the first values of all options before the second."""
    turns = []
    for name in commands():
        module = importlib.import_module(f"regroup.cli.{name}")
        for option in options_of(module.Options):
            values = values_of(option)
            turns += [(turn, name, option, text) for turn, text in enumerate(values)]
    for _, name, option, text in sorted(turns, key=lambda turn: turn[0]):
        yield name, option, text


def line(name, option, text):
    """Return the arguments of a trial."""
    known = options_of(importlib.import_module(f"regroup.cli.{name}").Options)
    base = list(BEGUN.get(name, ()))
    if name not in BEGUN:
        for other in known:
            if other.required and other.name != option.name:
                base += [*other.flags[:1], GIVEN.get(other.name, "zzz")]
    if option.flags and option.flags[0] in base:  # it is said in another way there
        at = base.index(option.flags[0])
        del base[at : at + (1 if option.is_switch else 2)]
    if not option.flags and base and not base[0].startswith("-"):
        del base[0]
    if name == "run" and option.name != "image" and "--image" not in base:
        base += ["--image", "IMAGE"]
    out = next(
        (
            flag
            for o in known
            for flag in o.flags
            if flag == "--out" and option.name not in (o.name, "resume")
        ),
        None,
    )
    if out and name in ("train", "compare", "bench", "export", "convert"):
        base += [out, "NEW"]
    said = [f"{option.flags[0]}{text}"] if option.is_switch else [*option.flags[:1], text]
    return [name, *base, *said]


def placed(place, argv):
    """Return arguments with places for the words that stand for one."""
    odd = {"FILE": "file", "FOLDER": "folder", "PIPE": "pipe", "LOOP": "loop", "IMAGE": "a.png", "RUN": "run"}
    new = tempfile.mkdtemp(dir=place)
    return [new if word == "NEW" else str(place / odd[word]) if word in odd else word for word in argv]


def tried_in_child(place, argv, absent=()):
    """Run a command where nothing can be had from elsewhere."""

    def offline(*arguments, **options):
        raise OSError("Network is unreachable")

    os.chdir(place)
    os.environ.update({"REGROUP_CACHE": "", "HF_HOME": str(place), "TORCH_HOME": str(place)})
    socket.getaddrinfo = socket.socket.connect = offline
    for name in absent:
        sys.modules[name] = None
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    with runs.registered():
        main(argv)


def check(argv, ended):
    """Return what is wrong with how a command ended; "" if nothing is."""
    if ended.returncode == -signal.SIGPROF:
        asked = HUGE in argv or "--seconds" in argv[-2:]  # so much work, or so much time
        return "" if asked else "it was still at work"
    lines = ended.stderr.splitlines()
    if ended.returncode not in (0, 1, 2):
        return f"status {ended.returncode}"
    if "Traceback" in ended.stderr or "should not have happened" in ended.stderr:
        return "an accident"
    said = [line for line in lines if line.startswith(f"regroup {argv[0]}: ")]
    if ended.returncode and len(said) != 1:
        return f"{len(said)} lines say why"
    if ended.returncode and not "".join(lines).isprintable():
        return "it steers the terminal"
    return ""


@pytest.mark.timeout(3600 if LONG else 300)
def test_every_option_takes_a_value_or_refuses_it_in_one_line(place, tell, tried):
    everything = list(trials())
    options = {(name, option.name) for name, option, _ in everything}
    chosen = everything if LONG else random.Random(101).sample(everything, 70)
    wrong = []
    for n, (name, option, text) in enumerate(chosen):
        argv = placed(place, line(name, option, text))
        ended = in_fork(tried_in_child, place, argv)
        if fault := check(argv, ended):
            wrong.append((fault, argv, ended.stderr[-600:]))
        if n % 50 == 0:
            tell(f"options tried: {n} of {len(chosen)}")
    assert not wrong, "\n".join(map(repr, wrong))
    assert len(options) > 100
    tried("options with values that they do not take", len(chosen))


LINES = [
    ("profile", "tiny", "--device", "cuda"),
    ("run", "torchvision:resnet18", "--pretrained", "--image", "IMAGE"),
    ("train", *TINY[:2], "--data", "cifar10", "--download", "--out", "NEW"),
    ("train", *TINY, "--aa", "foo", "--out", "NEW"),
    ("train", *TINY, "--opt", "sdg", "--out", "NEW"),
    ("train", *TINY, "--where", "zzz", "--strategy", "grouped:groups=2", "--out", "NEW"),
    ("compare", "--model", "tiny", "--data", "tiny", "--out", "/proc/xx"),
]


@pytest.mark.parametrize("argv", LINES, ids=" ".join)
def test_what_cannot_be_had_or_be_is_one_line(argv, place):
    if "cuda" in argv and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ended = in_fork(tried_in_child, place, placed(place, argv))
    assert ended.returncode in (1, 2) and not check(argv, ended), ended.stderr


EXTRAS = [
    (("compile", "FILE.onnx"), ("onnx", "onnx.helper", "onnx.numpy_helper")),
    (("train", *TINY, "--log-tensorboard", "--out", "NEW"), ("tensorboard", "torch.utils.tensorboard")),
]


@pytest.mark.parametrize(("argv", "absent"), EXTRAS, ids=lambda value: value[0])
def test_an_extra_that_is_not_installed_is_one_line(argv, absent, place):
    (place / "FILE.onnx").write_bytes(b"")
    ended = in_fork(tried_in_child, place, placed(place, argv), absent)
    assert not check(argv, ended), ended.stderr
    assert ended.returncode == 0 or absent[0] in ended.stderr
