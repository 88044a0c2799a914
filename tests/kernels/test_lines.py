"""Convolutions over lines and their gradients: random problems between protected pages, on every target."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_FUZZ = int(os.environ.get("REGROUP_FUZZ", "0"))


@pytest.mark.timeout(0 if _FUZZ else 300)
def test_random_problems_are_exact_and_stay_inside_their_memory():
    seed, count = (1, _FUZZ) if _FUZZ else (0, 40)
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.lines", str(seed), str(count)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    last = "\n".join(done.stdout.splitlines()[-1:])
    assert done.returncode == 0, f"{last}\n{done.stderr[-3000:]}"
    assert last == f"passed {count}"
