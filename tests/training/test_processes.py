"""Two processes train as one that accumulates their batches: to the bit, for halves are exact."""

import json

import pytest
import torch

from tests.processes import run_program
from tests.training import pair


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    ran = run_program(pair.main, tmp_path_factory.mktemp("pair"), GLOO_SOCKET_IFNAME="lo")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


def test_two_processes_end_in_the_weights_of_one_that_accumulates(trained):
    assert trained["pair1"][0]["weights"] == trained["alone1"]["weights"]


def test_so_do_two_processes_that_accumulate_but_for_the_order_of_the_sum(trained):
    pairs = zip(trained["pair2"][0]["weights"], trained["alone2"]["weights"], strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs))


@pytest.mark.parametrize("parts", [1, 2])
def test_both_processes_end_with_the_same_weights_buffers_and_results(trained, parts):
    assert trained[f"pair{parts}"][0] == trained[f"pair{parts}"][1]


@pytest.mark.parametrize(("parts", "steps"), [(1, [6, 12, 18]), (2, [3, 6, 9])])
def test_their_mean_loss_is_that_of_all_images(trained, parts, steps):
    runs = trained[f"pair{parts}"][0]["results"], trained[f"alone{parts}"]["results"]
    for both, alone, step in zip(*runs, steps, strict=True):
        assert both["train_loss"] == pytest.approx(alone["train_loss"])
        assert both["step"] == alone["step"] == step
