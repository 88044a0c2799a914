"""A run that learns its grouping and is interrupted ends in the same weights and grouping as any other."""

import pytest
import torch
from torch import nn

import regroup
from regroup.training import train
from tests.training.cases import config, data, equal


class Stopped(Exception):
    pass


def network(strategy):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Flatten(),
        nn.Linear(512, 4),
    )
    regroup.replace(model, strategy, where="2")
    return model


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize(
    "strategy", ["shifted:bits=3,block=4", "scaled_learned:scales=1+2+4", "mixed_learned"]
)
def test_an_interrupted_run_ends_as_one_that_was_not(strategy, epoch, tmp_path):
    def stop(result):
        if result.epoch == epoch:
            raise Stopped

    images, whole, resumed = data(shape=(3, 8, 8)), network(strategy), network(strategy)
    train(whole, images, config(epochs=5))
    with pytest.raises(Stopped):
        train(network(strategy), images, config(epochs=5, output=tmp_path), on_epoch=stop)
    train(resumed, images, config(epochs=5, output=tmp_path, resume=True))
    assert equal(whole, resumed)
    assert regroup.groupings(whole) == regroup.groupings(resumed)
