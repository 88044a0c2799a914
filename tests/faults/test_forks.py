"""Forked and spawned processes call and compile networks, whatever the threads of their parent were doing."""

import os
import random
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import regroup
from tests.faults import programs

FORKS = programs.LONG or 5

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.mark.slow
@pytest.mark.timeout(100 + 10 * FORKS)
def test_no_child_hangs_or_is_wrong(tmp_path, tell, tried):
    seed = random.SystemRandom().randrange(10**6)
    environment = {"REGROUP_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "2"}
    ran = programs.run("forks", FORKS, seed, tell=tell, PYTHONWARNINGS="ignore", **environment)
    assert ran.returncode == 0, f"seed {seed}: {ran.stdout}{ran.stderr}"
    assert int(ran.stdout) == FORKS
    tried("forks beside threads that call, compile and change", FORKS)


class Features(Dataset):
    """A data set that a compiled network is a part of; there are integers in and out."""

    def __init__(self):
        self.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten()).eval()
        for parameter in self.model.parameters():
            parameter.data = (torch.arange(parameter.numel()) % 5 - 2).reshape(parameter.shape).float()
        self.fast = regroup.compile(self.model, self.image(0))

    def __len__(self):
        return 8

    def image(self, index):
        return (torch.arange(36) % (index + 2)).reshape(1, 1, 6, 6).float()

    def __getitem__(self, index):
        return self.fast(self.image(index))[0]


def test_workers_of_a_loader_call_a_compiled_network():
    data = Features()
    with torch.no_grad():
        want = torch.cat([data.model(data.image(i)) for i in range(8)])
        data.fast(data.image(0))
    got = torch.cat(list(DataLoader(data, batch_size=3, num_workers=1, multiprocessing_context="fork")))
    assert torch.equal(got, want)


SPAWN = """
import multiprocessing, torch, regroup
from torch import nn

def work(number):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval()
    for parameter in model.parameters():
        parameter.data.fill_(number)
    x = torch.ones(1, 1, 5, 5)
    with torch.no_grad():
        return torch.equal(regroup.compile(model, x)(x), model(x))

if __name__ == "__main__":
    work(1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [2, 3]))
"""


def test_spawned_processes_compile(tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=200)
    assert ran.stdout.strip() == "[True, True]", ran.stderr
