"""Damaged images, JSON, safetensors, ONNX files and cache entries before every command that reads them.

Nothing ends in a traceback, hangs, or allocates more than `Sweep.memory` says; what works in spite of the
damage comes to what it comes to without. `sweep_commands` has the table of commands and files.
"""

import importlib
import json
import random
from pathlib import Path

import pytest

from regroup.cli import commands
from regroup.cli._misuse import options_of
from tests.faults import programs, sweep_commands, sweep_made

SHORT = {"images": 60, "documents": 60, "tensors": 60, "caches": 60}
SHORT |= {"directories": 20, "folders": 6, "commands": 6, "conversions": 5, "sets": 30, "onnx": 100}
"""Turns of each kind; in the long form 3,000, of commands and conversions 2,000."""


def turns(kind):
    return (
        SHORT[kind]
        if not programs.LONG
        else (10 if kind in ("commands", "conversions") else 15) * programs.LONG
    )


@pytest.mark.slow
@pytest.mark.timeout(300 + 80 * programs.LONG)
@pytest.mark.parametrize(
    "kinds",
    [
        ["images", "documents", "tensors", "caches"],
        ["directories", "folders", "commands", "conversions", "sets", "onnx"],
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
    rows = [*sweep_commands.COMMANDS, *sweep_made.COMMANDS]
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
