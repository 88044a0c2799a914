"""A long random sequence of changes and calls is never stale, and does not crash where memory is poisoned."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

CHANGES = 25 * int(os.environ.get("REGROUP_FAULTS", "5"))
ROOT = Path(__file__).parents[2]

POISON = {
    "MALLOC_PERTURB_": "165",
    "PYTHONMALLOC": "malloc_debug",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}
"""Memory is overwritten when it is freed: PyTorch's and Python's own."""


@pytest.mark.timeout(100 + CHANGES)
def test_no_change_is_missed(tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.changes", str(CHANGES), str(seed)]
    environment = {**os.environ, **POISON, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, f"seed {seed}: {ran.stdout}{ran.stderr[-5000:]}"
    made = json.loads(ran.stdout)
    assert sum(made.values()) >= CHANGES and made.get("refused", 0) <= sum(made.values()) / 5, made
