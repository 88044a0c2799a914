"""Learned strategies in other people's networks: put in, learned, deployed, equal."""

import pytest
import timm
import torch
import torchvision

import regroup
from regroup.strategies.learning import learned_modules
from tests.training.learned_pair import STRATEGIES

NETWORKS = {
    "torchvision": (lambda: torchvision.models.resnet18(num_classes=4), "layer1.*"),
    "timm": (lambda: timm.create_model("resnet10t", num_classes=4), "layer1.*"),
}


@pytest.mark.parametrize("source", NETWORKS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_network_of_others_learns_and_deploys_to_what_it_was(strategy, source):
    torch.manual_seed(0)
    build, where = NETWORKS[source]
    model, images = build(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    changes = regroup.replace(model, strategy, where)
    assert len(learned_modules(model)) == len(changes.replaced) >= 2
    model = model.double().train()
    regroup.set_progress(model, 0)
    (model(images).square().mean() + regroup.penalty(model)).backward()
    assert all(p.grad is not None for p in model.parameters())
    regroup.set_progress(model, 1)
    plain = regroup.deploy(model)
    assert not learned_modules(plain)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), model.eval()(images))
