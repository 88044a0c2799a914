"""A program, `main`, that trains each learned strategy with two processes; prints how both ended, as JSON."""

import json

import torch
from torch import distributed, nn

import regroup
from tests.training import pair

STRATEGIES = (
    "condensed:groups=2,lasso=0.0001",
    "reactivated:groups=2",
    "dynamic:heads=2,gate=0.25",
    "assigned:groups=2",
    "groupable",
    "mixed_learned:kernels=1+3",
    "scaled_learned:scales=1+2",
    "shifted:bits=3,block=4",
)


def network(strategy):
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Flatten(),
        nn.Linear(288, 4),
    )
    regroup.replace(model, strategy, where="3")
    return model


def outcomes(**changes):
    """Train all of them one after the other, the processes being joined once."""
    distributed.init_process_group("gloo")
    trained = {}
    for strategy in STRATEGIES:
        pair.network = lambda strategy=strategy: network(strategy)
        trained[strategy] = pair.outcome(**changes)
    distributed.destroy_process_group()
    return trained


def main(directory):
    print(json.dumps(pair.pair(directory, 1, outcomes)))
