"""A long random sequence of changes and calls is never stale, and does not crash where memory is poisoned."""

import json
import random

import pytest

from tests.faults import programs

CHANGES = 25 * (programs.LONG or 5)

POISON = {
    "MALLOC_PERTURB_": "165",
    "PYTHONMALLOC": "malloc_debug",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}
"""Memory is overwritten when it is freed: PyTorch's and Python's own."""


@pytest.mark.slow
@pytest.mark.timeout(100 + CHANGES)
def test_no_change_is_missed(tell, tried):
    seed = random.SystemRandom().randrange(10**6)
    ran = programs.run("changes", CHANGES, seed, tell=tell, PYTHONWARNINGS="ignore", **POISON)
    assert ran.returncode == 0, f"seed {seed}: {ran.stdout}{ran.stderr[-5000:]}"
    made = json.loads(ran.stdout)
    tried("changes of a compiled network, each followed by a call", sum(made.values()))
    assert sum(made.values()) >= CHANGES and made.get("refused", 0) <= sum(made.values()) / 5, made
