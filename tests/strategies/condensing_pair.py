"""A program, `main`, that condenses with two processes, then with one; prints both outcomes as JSON."""

import json

import torch
from torch import nn

from regroup.spec import ConvSpec
from regroup.strategies.condensed import CondensedConv
from tests.training import pair


def network(layer=CondensedConv):
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        layer(ConvSpec(8, 8, 3, padding=1), 2, 4, lasso=1e-4),
        nn.Flatten(),
        nn.Linear(288, 4),
    )


def main(directory):
    pair.network = network
    outcomes = {
        "pair": pair.pair(directory, 1),
        "alone": pair.outcome(batch_size=8, grad_accum_steps=2),
    }
    print(json.dumps(outcomes))
