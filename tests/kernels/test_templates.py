"""Every template on random problems, in memory between protected pages, on every target this CPU can run."""

from __future__ import annotations

import ctypes
import os

import pytest

from tests.kernels.memory import Guarded
from tests.kernels.problems import MAKERS
from tests.kernels.run import main
from tests.processes import in_fork

_COUNTS = {"conv": 400, "grouped": 260, "depthwise": 220, "pointwise": 220, "pool": 160, "adaptive": 120}
_COUNTS |= dict.fromkeys(("across", "layer_norm", "moments", "norm_scales", "modulate", "pick"), 30)
_OTHERS = 104
"""2,180 problems in all; `REGROUP_FUZZ=N` runs N of each kind instead, with other seeds."""


_FUZZ = int(os.environ.get("REGROUP_FUZZ", "0"))


@pytest.mark.slow
@pytest.mark.timeout(0 if _FUZZ else 300)
@pytest.mark.parametrize("family", MAKERS)
def test_kernels_stay_within_the_rounding_bound_and_within_their_tensors(family):
    count, seed = (_FUZZ, 1) if _FUZZ else (_COUNTS.get(family, _OTHERS), 0)
    done = in_fork(main, family, seed, count)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}\n{done.stderr[-2000:]}"
    assert done.stdout.splitlines()[-1] == f"passed {count}"


def test_a_touch_outside_of_guarded_memory_ends_the_process():
    for touch in (lambda region: region.take(5, True)[4:].ctypes.data + 4,
                  lambda region: region.take(5, False).ctypes.data - 1):  # fmt: skip
        done = in_fork(lambda touch=touch: ctypes.c_char.from_address(touch(Guarded(100))).value)
        assert done.returncode < 0
