"""Every template on random problems, in memory between protected pages, on every target this CPU can run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.problems import MAKERS

_ROOT = Path(__file__).parents[2]
_COUNTS = {"conv": 400, "grouped": 260, "depthwise": 220, "pointwise": 220, "pool": 160, "adaptive": 120}
_OTHERS = 104
"""2,000 problems in all; `REGROUP_FUZZ=N` runs N of each kind instead, with other seeds."""


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.kernels.run", *map(str, arguments)],
        cwd=_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


_FUZZ = int(os.environ.get("REGROUP_FUZZ", "0"))


@pytest.mark.timeout(0 if _FUZZ else 300)
@pytest.mark.parametrize("family", MAKERS)
def test_kernels_stay_within_the_rounding_bound_and_within_their_tensors(family):
    count, seed = (_FUZZ, 1) if _FUZZ else (_COUNTS.get(family, _OTHERS), 0)
    done = _run(family, seed, count)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}\n{done.stderr[-2000:]}"
    assert done.stdout.splitlines()[-1] == f"passed {count}"


def test_a_touch_outside_of_guarded_memory_ends_the_process():
    for code in ("region.take(5, True)[4:].ctypes.data + 4", "region.take(5, False).ctypes.data - 1"):
        script = (
            "import ctypes, tests.kernels.memory as m; region = m.Guarded(100); "
            f"ctypes.c_char.from_address({code}).value"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=_ROOT, capture_output=True)
        assert done.returncode < 0
