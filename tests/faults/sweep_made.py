"""Damaged files before what is made of a network: conversions, exports, pictures; and before their readers.

A row is as in `sweep_commands`:

    command                | reads
    -----------------------|-------------------------------------------------------------------------------
    convert                | a network's directory; files of weights; what an interrupted conversion has left:
                           | memory.json, the directories of its training; the converted network that goes
    run, compile, profile, | a converted network
    evaluate, bench, draw  |
    export                 | a run, a converted network, files of weights; the earlier export that goes
    evaluate, bench, draw  | a run; object code in the cache

Folders of images before `convert` and `evaluate` are in `sweep_commands`.
"""

import shutil

import pytest
import torch
from safetensors.torch import save_file

import regroup
from regroup.cli import convert as convert_command
from regroup.loading.trained import Trained
from regroup.training.checkpoint import save_weights
from regroup.training.data import load_data
from tests.faults import runs, sweep_commands
from tests.faults.sweep_commands import EVALUATE, OF_RUN, Command, printed


def convert(model, out, *more, data="tiny"):
    few = ("--budget", "macs=0.8", "--images", "16", "--choice", "activation", "--quiet", "--no-wait")
    return ("convert", model, "--data", data, "--epochs", "0", *few, "--out", out, *more)


def converted(name):
    """Return what tells a converted network."""
    return lambda place, out: [(place / name / file).read_bytes() for file in runs.CONVERTED]


def export(model, *more):
    return ("export", model, "--no-check", "--quiet", *more)


_FILE, _SMALL = ("files/c.safetensors",), ("small/*",)
_OF_FILE = ("resnet_small", "--weights", "{}/files/c.safetensors")
_PT2 = ("--to", "pt2", "--out", "{}/new/a.pt2")
_OBJECT = ("--target", "x86-64-avx2", "--out")
_DRAWN = ("--block", "3", "--out", "{}/new/a.svg")
_TAUGHT = ("taught/small.work/memory.json", "taught/small.work/training/*/*.*")
_TAUGHT = (*_TAUGHT, "taught/small.work/training/*/*/*")

COMMANDS = (
    Command("convert", convert("{}/dense", "{}/new/a"), ("dense/*",), converted("new/a")),
    Command(
        "convert --weights",
        convert(*_OF_FILE[:1], "{}/new/a", *_OF_FILE[1:], "--exclude", "stages.0.*", "stages.1.*"),
        _FILE,
    ),
    Command(
        "convert, going on",
        convert("{}/dense", "{}/going/small"),
        ("going/small.work/memory.json",),
        converted("going/small"),
    ),
    Command(
        "convert, training goes on",
        convert("{}/dense", "{}/taught/small", "--epochs", "1"),
        _TAUGHT,
        converted("taught/small"),
    ),
    Command(
        "convert in place of another",
        convert("{}/dense", "{}/again/small"),
        ("again/small/*",),
        converted("again/small"),
    ),
    Command("run a converted one", ("run", "{}/small", "--image", "{}/a.png", "--json"), _SMALL, printed),
    Command("compile a converted one", ("compile", "{}/small", "--json"), _SMALL),
    Command("profile a converted one", ("profile", "{}/small", "--no-time", "--json"), _SMALL, printed),
    Command("evaluate a converted one", ("evaluate", "{}/small", *EVALUATE), _SMALL, printed),
    Command(
        "evaluate, compiled",
        ("evaluate", "{}/run", "--data", "tiny", "--no-time", "--json"),
        (),
        printed,
        True,
    ),
    Command("evaluate --weights", ("evaluate", *_OF_FILE, *EVALUATE), _FILE),
    Command("export", export("{}/run", *_PT2), OF_RUN),
    Command("export a converted one", export("{}/small", *_OBJECT, "{}/new/net"), _SMALL),
    Command("export --weights", export(*_OF_FILE, "--image", "8", *_OBJECT, "{}/new/net"), _FILE),
    Command(
        "export in place of another",
        export("{}/run", *_OBJECT, "{}/object/net", "--replace"),
        ("object/net/*",),
    ),
    Command("draw", ("draw", "{}/run", *_DRAWN), OF_RUN),
    Command("draw a converted one", ("draw", "{}/small", *_DRAWN), _SMALL),
    Command("bench", ("bench", "{}/run", "--seconds", "0.0001", "--quiet"), OF_RUN),
)


def made(sweep, place):
    """Make all that these read, as it is left by what makes it."""
    sweep_commands.made(sweep, place)
    torch.manual_seed(0)
    described = Trained.on(load_data("tiny"), "wide", {}, None, None)
    save_weights(place / "dense", described.build(), network=described.to_json())
    model = regroup.create_model("resnet_small", num_classes=4)
    save_file(model.state_dict(), place / "files" / "c.safetensors")
    dense = str(place / "dense")
    for argv in (
        convert(dense, f"{place}/small"),
        convert(dense, f"{place}/again/small"),
        convert(dense, f"{place}/going/small"),
        convert(dense, f"{place}/taught/small", "--epochs", "1"),
        export(f"{place}/run", *_OBJECT, f"{place}/object/net"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            if "going" in argv[-1] or "taught" in " ".join(argv):
                patch.setattr(
                    convert_command, "_remove", lambda work, place: None
                )  # as if it had been interrupted
            assert sweep.command(argv[0], "what will be damaged", *argv)[0] == 0, sweep.said
    for name in ("going", "taught"):
        shutil.rmtree(place / name / "small")


def conversions(sweep):
    """What is made of networks, and what reads that."""
    sweep_commands.swept(sweep, COMMANDS, made)
