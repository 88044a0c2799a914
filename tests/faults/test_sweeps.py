"""Damaged images, JSON, safetensors, ONNX files and cache entries before every command that reads them.

Nothing ends in a traceback, hangs, or allocates more than `Sweep.memory` says; what works in spite of the
damage comes to what it comes to without. `sweep_commands` has the table of commands and files.
"""

import ast
import importlib
import json
import random
from pathlib import Path

import pytest

import regroup
from regroup.cli import commands
from regroup.cli._misuse import options_of
from tests.faults import programs, sweep, sweep_commands, sweep_made, sweep_tasks

SHORT = {"images": 60, "documents": 60, "tensors": 60, "caches": 60}
SHORT |= {
    "directories": 20,
    "folders": 6,
    "commands": 6,
    "conversions": 5,
    "sets": 30,
    "tasks": 4,
    "places": 1,
    "onnx": 100,
}
"""Turns of each kind; in the long form 3,000, of commands, conversions and tasks 2,000."""


def turns(kind):
    return (
        SHORT[kind]
        if not programs.LONG
        else (10 if kind in ("commands", "conversions", "tasks", "places") else 15) * programs.LONG
    )


@pytest.mark.slow
@pytest.mark.timeout(300 + 80 * programs.LONG)
@pytest.mark.parametrize(
    "kinds",
    [
        ["images", "documents", "tensors", "caches"],
        ["directories", "folders", "commands", "conversions", "sets", "tasks", "onnx"],
        ["places"],
    ],
    ids="-".join,
)
def test_damaged_files_are_read_or_refused_in_one_line(kinds, tmp_path, tell, tried):
    seed = random.SystemRandom().randrange(10**6) if programs.LONG else 101
    counts = [f"{kind}={turns(kind)}" for kind in kinds]
    ran = programs.run("sweep", tmp_path, seed, *counts, tell=tell)
    assert ran.returncode == 0, f"seed {seed}: {ran.stderr[-2000:]}"
    results = json.loads(ran.stdout.splitlines()[-1])
    for kind in kinds:
        found = results[kind]
        assert not found["wrong"], f"seed {seed}: {found['wrong']}\n{ran.stderr[-2000:]}"
        assert sum(found["tried"].values()) >= turns(kind)
        assert found["refused"] > turns(kind) / 4 or kind == "caches"
        for name, count in found["tried"].items():
            if count >= turns(kind) / 20:
                tried(f"damaged {kind}: {name}", count)
        tell(f"damaged {kind}: {found['seconds']} s, at most {found['megabytes']} MB in a fork")


READ = ("model", "backbone", "what", "data", "weights", "teacher", "resume", "image")
"""Options of texts or paths that name what is read."""

NOT_READ = ("aa", "block", "budget", "choice", "code", "conv", "device", "devices", "exclude", "flash")
NOT_READ += ("groups", "model_options", "on", "opt", "out", "output", "pattern", "plugin", "ram", "sched")
NOT_READ += ("strategies", "strategy", "target", "task", "to", "to_options", "where")
"""... that do not, or that name a program."""


def test_whatever_a_command_reads_is_damaged_before_it():
    """Who adds a command or an option that reads files is told by name to add a row."""
    rows = [*sweep_commands.COMMANDS, *sweep_made.COMMANDS, *sweep_tasks.COMMANDS]
    for name in commands():
        known = options_of(importlib.import_module(f"regroup.cli.{name}").Options)
        named = [option for option in known if {str, Path} & set(option.kinds)]
        for option in named:
            assert (option.name in READ) != (option.name in NOT_READ), f"{name}: what is {option.name}?"
            if option.name not in READ:
                continue
            said = [row.argv for row in rows if row.argv[0] == name]
            found = [argv for argv in said if set(option.flags) & set(argv) or not option.flags]
            assert found, f"{name} {option.name}: no row of `sweep_commands` or `sweep_made`"


READERS = {
    "comparison/result.py": "documents",
    "comparison/timing.py": "directories",
    "conversion/memory.py": "conversions",
    "conversion/packed.py": "tensors",
    "engine/frontend/onnx/model.py": "onnx",
    "loading/inputs.py": "images",
    "loading/kinds.py": "documents",
    "networks/weight_files.py": "tensors",
    "training/checkpoint.py": "documents",
    "training/data/annotated.py": "tasks",
    "training/data/annotations/coco.py": "tasks",
    "training/data/annotations/masks.py": "tasks",
    "training/data/annotations/shown.py": "tasks",
    "training/data/annotations/voc.py": "tasks",
    "training/data/annotations/yolo.py": "tasks",
    "training/data/folder.py": "folders",
    "training/data/images.py": "images",
    "training/data/scan.py": "caches",
    "training/directory.py": "directories",
}
"""What reads files that somebody may have damaged, and the kind of the sweep with them."""

NO_FILES = {
    "aot/sources.py",
    "cli/_output.py",
    "kernels/program/layout.py",
    "networks/scalenet.py",
    "ops/costs.py",
    "profiling/machine.py",
    "training/code.py",
    "training/loaded.py",
}
"""What reads the package's own files, source, or the system's."""

_READ = {"open_file", "read_file", "read_beginning", "read_document", "safe_open", "load_file", "open"}
_READ |= {
    "read_bytes",
    "read_text",
    "fromfile",
    "memmap",
    "read_image",
    "read_levels",
    "read_xml",
    "read_yaml",
}
_READ |= {"lines_of"}
_OF = {"open": {"Image", "os", "io", ""}, "load": {"torch", "onnx", "np", "json"}}


def reads(path):
    """Return whether a module calls what reads files."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call):
            place = call.func.value if isinstance(call.func, ast.Attribute) else None
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            of = getattr(place, "id", "")
            if name in _OF and of in _OF[name] and not (name == "open" and place is not None and not of):
                return True
            if name in _READ - _OF.keys():
                return True
    return False


def test_every_module_that_reads_files_is_in_a_sweep():
    """Who writes a reader is told by name to add it; `regroup.files` is what they all read by."""
    home = Path(regroup.__file__).parent
    found = {path.relative_to(home).as_posix() for path in home.rglob("*.py") if reads(path)}
    ours = {name for name in found if not name.startswith("files/")}
    assert ours == READERS.keys() | NO_FILES
    assert set(READERS.values()) <= sweep.KINDS.keys() == SHORT.keys()
