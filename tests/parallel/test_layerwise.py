"""Layer by layer, a step on devices is that of one within rounding; a mistake that is far smaller shows."""

import copy

import pytest
import torch

from regroup.parallel import running
from tests.parallel.layerwise import LR, MOMENTUM, Layerwise
from tests.parallel.networks import alexnet, batch, condensenet, igcv3, resnext, shufflenet, started
from tests.parallel.threads import together


def worst(make, devices, steps=2):
    options = {"drop_rate": 0.0} if make is alexnet else {}  # threads would draw one another's numbers
    model = started(make, **options).double().train()
    images, labels = batch(make)
    images = images.double()

    def task(shared, wire):
        optimizer = torch.optim.SGD(shared.parameters(), LR, MOMENTUM)
        layers = Layerwise(shared, copy.deepcopy(model), optimizer, images)
        return [layers.step(images, labels, seed) for seed in range(steps)]

    found = together(model, devices, (images,), task)[1][0]
    return {kind: max(step[kind] for step in found) for kind in found[0]}


@pytest.mark.parametrize(
    ("make", "devices"), [(alexnet, 2), (resnext, 4), (shufflenet, 2), (condensenet, 4), (igcv3, 4)]
)
def test_each_layer_of_each_step_is_within_its_rounding(make, devices):
    found = worst(make, devices)
    assert all(share <= 1 for share, _ in found.values()), found
    assert found["outputs"][0] > 0 and found["weights"][0] > 0  # sums are formed in another order


@pytest.mark.parametrize("rule", ["conv2d", "batch_norm", "relu", "linear", "local_response_norm"])
def test_a_mistake_of_a_hundred_millionth_is_seen(rule, monkeypatch):
    right = running._RULES[rule]

    def wrong(run, func, *args, **kwargs):
        result = right(run, func, *args, **kwargs)
        return run.divided(result.block.local * (1 + 1e-8), result.block.division)

    monkeypatch.setitem(running._RULES, rule, wrong)
    found = worst(alexnet if rule == "local_response_norm" else shufflenet, 2, steps=1)
    assert found["outputs"][0] > 10 and found["gradients"][0] > 10, found
