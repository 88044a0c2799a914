"""Eight callers and one changer; networks that are compiled and dropped again and again in level memory."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

LENGTH = int(os.environ.get("REGROUP_FAULTS", "5"))
CALLS, ROUNDS = 100 * LENGTH, 5 * LENGTH
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.mark.timeout(100 + CALLS)
def test_calls_beside_changes_are_right_and_what_is_dropped_is_given_back():
    seed = random.SystemRandom().randrange(10**6)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.faults.threads",
        str(CALLS),
        str(ROUNDS),
        str(seed),
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, f"seed {seed}: {ran.stdout}{ran.stderr}"
    figures = json.loads(ran.stdout)
    assert figures["calls"] >= CALLS - 8 and figures["changes"]
    assert figures["grown"] < 2048, (
        figures
    )  # of 300 rounds it was 0; a network takes some pages for its code alone
