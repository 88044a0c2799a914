"""What learned strategies share: progress, penalty and deployment of whole models."""

import copy
import json

import pytest
import torch
from torch import nn

from regroup.errors import ParameterError, PlanError
from regroup.spec import ConvSpec
from regroup.strategies.condensed import CondensedConv
from regroup.strategies.learning import (
    Learned,
    deploy,
    groupings,
    learned_modules,
    load_groupings,
    penalty,
    set_progress,
)


def layer(lasso=0.0):
    return CondensedConv(ConvSpec(4, 4, 1), 2, 2, lasso=lasso)


def plain():
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())


def test_a_plain_model_is_left_alone():
    model, x = plain(), torch.randn(2, 4, 3, 3)
    set_progress(model, 0.5)
    assert penalty(model).item() == 0
    assert penalty(nn.ReLU()).item() == 0
    assert groupings(model) == {}
    assert torch.equal(deploy(model)(x), model(x))


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_is_a_share(progress):
    with pytest.raises(ParameterError, match=r"progress=.*give step / total_steps"):
        set_progress(plain(), progress)


def test_the_penalty_of_a_model_is_the_sum_of_its_layers():
    model = nn.Sequential(layer(0.5), nn.Sequential(layer(0.25), layer()))
    assert penalty(model).item() == pytest.approx(
        sum(m.penalty().item() for m in learned_modules(model).values())
    )
    penalty(model).backward()
    assert [m.conv.weight.grad is not None for m in (model[0], model[1][0])] == [True, True]


def test_deploying_changes_the_copy_only():
    model = nn.Sequential(layer(), nn.ReLU(), nn.Sequential(layer())).train()
    before = copy.deepcopy(model.state_dict())
    set_progress(model, 0)
    result = deploy(model)
    assert len(learned_modules(model)) == 2
    assert model.training
    assert not learned_modules(result)
    assert not result.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    result[0].conv.weight.data.zero_()
    assert model[0].conv.weight.all()


def test_a_layer_that_stands_in_two_places_is_one_layer_when_deployed():
    shared = layer()
    model = nn.Sequential(shared, nn.ReLU(), shared)
    set_progress(model, 1)
    result, x = deploy(model), torch.randn(2, 4, 3, 3)
    assert result[0] is result[2]
    assert not learned_modules(result)
    torch.testing.assert_close(result(x), model(x))


def test_learned_layers_inside_a_learned_one_are_deployed_first():
    class Outer(Learned):
        def __init__(self):
            super().__init__()
            self.inner = layer()

        def forward(self, x):
            return self.inner(x) + x

        def deploy(self):
            assert not isinstance(self.inner, Learned)
            return nn.Sequential(self.inner)

    assert not learned_modules(deploy(Outer()))
    assert not learned_modules(deploy(nn.Sequential(Outer(), Outer())))


def test_groupings_go_to_the_layers_of_their_names():
    model = nn.Sequential(layer(), nn.Sequential(layer()))
    set_progress(model, 1)
    again = nn.Sequential(layer(), nn.Sequential(layer()))
    load_groupings(again, json.loads(json.dumps(groupings(model))))
    assert groupings(again) == groupings(model)
    with pytest.raises(PlanError, match=r"of other layers than the model's: 1\.0 differ"):
        load_groupings(again, {"0": groupings(model)["0"]})


def test_a_kind_that_lacks_a_method_is_told_its_name():
    class Bare(Learned):
        pass

    for call in (Bare().deploy, Bare().grouping, lambda: Bare().load_grouping({})):
        with pytest.raises(NotImplementedError, match="Bare has no"):
            call()
