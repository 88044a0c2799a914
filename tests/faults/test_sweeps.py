"""Damaged images, JSON, safetensors and cache entries before every command that reads them.

Nothing ends in a traceback, hangs, or allocates more than `sweep.MEMORY` says.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = 15 * int(os.environ.get("REGROUP_FAULTS", "4"))
"""Files of each kind; 3,000 in `make faults`."""

KINDS = ("images", "documents", "runs", "tensors", "caches")


@pytest.mark.timeout(300 + 5 * COUNT)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    seed = random.SystemRandom().randrange(10**6) if "REGROUP_FAULTS" in os.environ else 101
    command = [sys.executable, "-m", "tests.faults.sweep", tmp_path, COUNT, seed, *KINDS]
    root = Path(__file__).parents[2]
    ran = subprocess.run(map(str, command), cwd=root, capture_output=True, text=True)
    at = {kind: (tmp_path / kind / "now").read_text() for kind in KINDS if (tmp_path / kind / "now").exists()}
    assert ran.returncode == 0, f"seed {seed}, at {at}: {ran.stderr[-2000:]}"
    found = json.loads(ran.stdout.splitlines()[-1])
    for kind in KINDS:
        assert not found[kind]["wrong"], f"seed {seed}: {found[kind]['wrong']}"
        assert found[kind]["tried"] >= COUNT // 2
    assert found["images"]["refused"] > COUNT / 2 and found["documents"]["refused"] > COUNT
