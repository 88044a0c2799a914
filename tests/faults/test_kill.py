"""kill -9 at random moments, then again: what comes out at last is what nobody disturbed comes to."""

import json
import os
import random
import subprocess
import sys

import pytest

from tests.faults import programs

KILLS = programs.LONG or 6
WORK = {"train:1": KILLS}
WORK |= dict.fromkeys(
    ("train:2", "share:2", "compare:1", "elsewhere:1", "compile:1", "convert:1"), KILLS // 2
)
"""How often each work, in so many processes, is killed."""


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * KILLS)
def test_what_was_killed_and_begun_again_ends_in_the_same_bits(tmp_path, tell, tried):
    seed = random.SystemRandom().randrange(10**6)
    wanted = [f"{name}={kills}" for name, kills in WORK.items()]
    ran = programs.run("trials", tmp_path, seed, *wanted, tell=tell, REGROUP_CACHE="")
    assert ran.returncode == 0, f"seed {seed}: {ran.stdout}{ran.stderr}"
    found = json.loads(ran.stdout.splitlines()[-1])
    for name, kills in WORK.items():
        outcome = found[name]
        assert outcome["killed"] == kills
        assert len(set(outcome["undisturbed"])) == 1, "the processes ended with different weights"
        assert all(end == outcome["undisturbed"] for end in outcome["ends"]), f"seed {seed}: {outcome}"
        tried(f"kills of {name.replace(':', ' in ')} process(es)", kills)


ORPHAN = """
import os, signal, sys, time
from pathlib import Path
from tests.faults.trials import finished, started, trained
directory = Path(sys.argv[1])
first, second = started(trained, directory / "run", 2)
while not list(directory.glob("run/checkpoint-*")):
    time.sleep(0.01)
os.kill(first, signal.SIGKILL)
assert finished([second], within=60), "the other process hangs"
"""


def test_when_one_process_is_killed_the_other_says_so_and_ends(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", ORPHAN, str(tmp_path)]
    ran = subprocess.run(command, cwd=programs.ROOT, env=environment, capture_output=True, text=True)
    assert "TrainingError: another process of this training has ended" in ran.stderr
    assert "a run failed by itself: exit codes [1]" in ran.stderr
