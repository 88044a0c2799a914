"""Processes that share a network over gloo: what `program.py` finds, which starts them once for all cases."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regroup.errors import ConfigError
from tests.parallel.magnitude import digits
from tests.parallel.training import trained


def run(*arguments):
    command = [sys.executable, "-m", "tests.parallel.program", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]) | {"told": ran.stderr}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared")
    trained(2, output=path / "one")
    return path


@pytest.fixture(scope="module")
def found(directory):
    return run(str(directory))


@pytest.fixture(scope="module")
def straight():
    return trained(3)


def left(found):
    """Results of the processes that have not been ended."""
    survivors = [r for r in found["results"] if r is not None]
    assert len(survivors) == 3, found["told"]
    return survivors


@pytest.mark.parametrize("case", ["towers", "shufflenet", "condensenet"])
def test_they_train_as_one_process_does_with_dropout_and_batch_norm(found, case):
    watching = [result[case]["worst"] for result in left(found) if result[case]["worst"]]
    assert watching and all(share <= 1 for worst in watching for share, _ in worst.values()), watching


@pytest.mark.parametrize("case", ["towers", "shufflenet", "condensenet"])
def test_what_they_receive_is_what_the_plan_says(found, case):
    for result in left(found):
        counted, planned = result[case]["received"]
        assert counted == planned > 0


def test_a_run_on_four_goes_on_in_one_and_the_other_way_round(found):
    assert min(*left(found)[0]["elsewhere"].values()) > 0.5


def alike(state, wanted):
    return min(digits(torch.tensor(t).double(), wanted[n]) for n, t in state.items()) * 2  # of float32


def test_a_training_of_one_process_goes_on_in_four(found, straight):
    for result in left(found):
        assert alike(result["trainings"]["state"], straight[0]) > 0.5
        assert result["trainings"]["score"] == straight[1].score


def test_four_processes_train_and_go_on_below_a_url(found, straight):
    for result in left(found):
        assert alike(result["trainings"]["below"], straight[0]) > 0.5


def test_a_training_of_four_processes_goes_on_in_one(found, directory, straight):
    state, last = trained(3, output=directory / "four", resume=True)
    assert alike({n: t.tolist() for n, t in state.items()}, straight[0]) > 0.5
    assert last.score == straight[1].score


def test_pairs_of_pairs_train_as_a_pair_does_and_end_alike(found):
    first, *others = (result["trainings"]["pairs"] for result in left(found))
    assert all(other == first for other in others)


def test_devices_that_are_not_there_are_an_error_in_every_process(found):
    for result in left(found):
        told = result["trainings"]["told"]
        assert "as many as there are processes (4)" in told["groups=3"]
        assert "torchrun --nproc-per-node 8" in told["groups=2,data=4"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"devices": "groups=2"}, "torchrun --nproc-per-node 2"),
        ({"devices": "groups=0"}, "such as groups=2"),
        ({"devices": "towers=2"}, "such as groups=2"),
        ({"devices": "groups=2", "opt": "lamb"}, "opt='lamb'"),
        ({"devices": "groups=2", "clip_mode": "agc"}, "clip_mode='agc'"),
        ({"devices": "groups=2", "amp": True, "amp_dtype": "float16"}, "bfloat16"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_runs(changes, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        trained(1, **changes)


def test_pairs_that_share_channels_share_images_with_other_pairs(found):
    assert all(result["mixed"]["weights"] > 0.5 for result in left(found))


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("plan", "do not share one plan"),
        ("size", "do not share one plan"),
        ("groups", "process 0: ConfigError: devices=4"),
        ("weights", "0.weight has other numbers in process 3 than in process 0"),
        ("images", "process 3 with float32 (2, 3, 2, 2), but other numbers: give all of a group the same"),
        ("mode", "process 3 trains, or computes gradients, where process 0 does not, or the reverse"),
        ("later", "process 0 with float32 (2, 3, 2, 2), process 3 with float32 (1, 3, 2, 2)"),
        ("chance", "set one seed in all processes of a group"),
    ],
)
def test_processes_that_are_not_at_one_all_say_so(found, case, told):
    assert all(told in result["refused"][case] for result in left(found))


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
            assert all(share <= 1 for share, _ in case["worst"].values()), (name, case["worst"])
            assert case["received"][0] == case["received"][1] > 0, name
