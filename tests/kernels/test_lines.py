"""Convolutions over lines and their gradients: random problems between protected pages, on every target."""

import os

import pytest

from tests.kernels.lines import main
from tests.processes import in_fork

_FUZZ = int(os.environ.get("REGROUP_FUZZ", "0"))


@pytest.mark.timeout(0 if _FUZZ else 300)
def test_random_problems_are_exact_and_stay_inside_their_memory():
    seed, count = (1, _FUZZ) if _FUZZ else (0, 40)
    done = in_fork(main, seed, count)
    last = "\n".join(done.stdout.splitlines()[-1:])
    assert done.returncode == 0, f"{last}\n{done.stderr[-3000:]}"
    assert last == f"passed {count}"
