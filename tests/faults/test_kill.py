"""kill -9 at random moments, then resume: the final weights are those of the run that nobody disturbed."""

import json
import os
import random
import subprocess
import sys

import pytest

from tests.faults import programs

KILLS = programs.LONG or 6


@pytest.mark.timeout(60 + 10 * KILLS)
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_training_ends_in_the_same_bits(processes, tmp_path, tell, tried):
    seed = random.SystemRandom().randrange(10**6)
    ran = programs.run("trials", tmp_path, KILLS // processes, processes, seed, tell=tell)
    assert ran.returncode == 0, f"seed {seed}: {ran.stdout}{ran.stderr}"
    outcome = json.loads(ran.stdout.splitlines()[-1])
    assert outcome["killed"] == KILLS // processes
    assert len(set(outcome["undisturbed"])) == 1, "the processes ended with different weights"
    assert all(end == outcome["undisturbed"] for end in outcome["ends"]), f"seed {seed}: {outcome}"
    tried(f"kills of training in {processes} process(es)", outcome["killed"])


ORPHAN = """
import os, signal, sys, time
from pathlib import Path
from tests.faults.trials import few, finished, started
directory = Path(sys.argv[1])
first, second = started(directory / "run", few(), 2)
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
