"""Damaged images, JSON, safetensors, ONNX files and cache entries before every command that reads them.

Nothing ends in a traceback, hangs, or allocates more than `Sweep.memory` says; what works in spite of the
damage comes to what it comes to without. `sweep_commands` has the table of commands and files.
"""

import json
import random

import pytest

from tests.faults import programs

SHORT = {"images": 60, "documents": 60, "tensors": 60, "caches": 60}
SHORT |= {"directories": 20, "folders": 6, "commands": 6, "sets": 30, "onnx": 100}
"""Turns of each kind; in the long form 3,000, of commands 2,000."""


def turns(kind):
    return SHORT[kind] if not programs.LONG else (10 if kind == "commands" else 15) * programs.LONG


@pytest.mark.timeout(300 + 80 * programs.LONG)
@pytest.mark.parametrize(
    "kinds",
    [["images", "documents", "tensors", "caches"], ["directories", "folders", "commands", "sets", "onnx"]],
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
