"""Processes that share a network over gloo: what `program.py` finds, which starts them once for all cases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments):
    command = [sys.executable, "-m", "tests.parallel.program", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]) | {"told": ran.stderr}


@pytest.fixture(scope="module")
def found():
    return run()


def left(found):
    """Results of the processes that have not been ended."""
    return [r for r in found["results"] if r is not None]


@pytest.mark.parametrize("case", ["towers", "shufflenet", "condensenet"])
def test_they_train_as_one_process_does_with_dropout_and_batch_norm(found, case):
    for result in left(found):
        assert result[case]["outputs"] > 0.5
        assert result[case]["weights"] > 0.5


@pytest.mark.parametrize("case", ["towers", "shufflenet", "condensenet"])
def test_what_they_receive_is_what_the_plan_says(found, case):
    for result in left(found):
        counted, planned = result[case]["received"]
        assert counted == planned > 0


def test_a_run_on_four_goes_on_in_one_and_the_other_way_round(found):
    assert min(*left(found)[0]["elsewhere"].values()) > 0.5


def test_pairs_that_share_channels_share_images_with_other_pairs(found):
    assert all(result["mixed"]["weights"] > 0.5 for result in left(found))


def test_processes_that_are_not_at_one_all_say_so(found):
    assert all("do not share one plan" in result["refused"] for result in left(found))


def test_a_process_that_ends_is_an_error_in_all_others_and_soon(found):
    assert found["codes"] == [0, 3, 0, 0], found["told"]
    for result in left(found):
        assert "one has ended" in result["gone"]["error"]
        assert result["gone"]["seconds"] < 60  # the patience of the test is 5 s


@pytest.mark.skipif("REGROUP_FUZZ" not in os.environ, reason="the long run: make fuzz")
@pytest.mark.timeout(3600)
def test_published_networks_train_as_in_one_process():
    results = run("full")["results"]
    for result in results:
        for name, case in result.items():
            assert min(case["outputs"], case["weights"]) > 0.5, name
            assert case["received"][0] == case["received"][1], name
