"""Assigned: the mask and its gradient, groups that are always complete, and unequal groups deployed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regroup import deploy, penalty, set_progress
from regroup.errors import PlanError, StrategyError
from regroup.ops.bounds import rounding_bound, worst_ratio
from regroup.ops.counting import count
from regroup.spec import ConvSpec
from regroup.strategies.assigned import Assigned, AssignedConv, balanced_logits
from regroup.strategies.learning import groupings, learned_modules, load_groupings

SPEC = ConvSpec(16, 24, 3, stride=2, padding=1, bias=True)


def scattered(spec=SPEC, groups=4, rate=10.0):
    """A layer with unequal groups, of which the last is empty."""
    layer = AssignedConv(spec, groups, rate)
    for logits in (layer.inputs, layer.outputs):
        nn.init.normal_(logits)
        logits.data[:, -1] = -9
    return layer.eval()


class Binarized(torch.autograd.Function):
    """The published mask: 1 at the largest, and a gradient there only."""

    @staticmethod
    def forward(context, shares):
        hard = (shares == shares.amax(1, keepdim=True)).to(shares.dtype)
        context.save_for_backward(hard)
        return hard

    @staticmethod
    def backward(context, gradient):
        (hard,) = context.saved_tensors
        return gradient * (hard != 0)


def test_result_and_gradients_are_those_of_the_published_code():
    ours = scattered(rate=1.0).double()
    theirs = copy.deepcopy(ours)
    x = torch.randn(2, 16, 9, 9, dtype=torch.float64)
    direction = torch.randn(2, 24, 5, 5, dtype=torch.float64)
    mask = Binarized.apply(theirs.outputs.softmax(1)) @ Binarized.apply(theirs.inputs.softmax(1)).t()
    weight = theirs.conv.weight * mask[:, :, None, None]
    expected = F.conv2d(x, weight, theirs.conv.bias, 2, 1)
    (expected * direction).sum().backward()
    result = ours(x)
    (result * direction).sum().backward()
    assert torch.equal(result, expected)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert its.grad.any() and torch.equal(mine.grad, its.grad)


def test_the_rate_multiplies_the_gradient_of_the_logits_alone():
    slow, quick = scattered(rate=1.0), scattered(rate=4.0)
    quick.load_state_dict(slow.state_dict())
    x = torch.randn(2, 16, 9, 9)
    for layer in (slow, quick):
        layer(x).square().mean().backward()
    assert torch.equal(quick(x), slow(x))
    assert torch.equal(quick.inputs.grad, 4 * slow.inputs.grad)
    assert torch.equal(quick.conv.weight.grad, slow.conv.weight.grad)


def test_of_equal_logits_one_is_chosen():
    layer = AssignedConv(SPEC, 4)
    nn.init.zeros_(layer.inputs)
    assert layer.groups()[0][0] == list(range(16))
    assert (
        layer.mask().sum(1) == torch.tensor([16.0 if k in layer.groups()[0][1] else 0 for k in range(24)])
    ).all()


@pytest.mark.parametrize("channels", [16, 17, 19])
def test_groups_start_random_and_as_equal_as_can_be(channels):
    logits = balanced_logits(channels, 4)
    sizes = torch.bincount(logits.argmax(1), minlength=4)
    assert sizes.max() - sizes.min() <= 1
    assert not torch.equal(logits.argmax(1), balanced_logits(channels, 4).argmax(1))


def test_deployed_unequal_and_empty_groups_lie_within_the_rounding_bound():
    layer, x = scattered(), torch.randn(2, 16, 11, 11)
    plain = deploy(layer)
    sizes = [(len(i), len(o)) for i, o in layer.groups()]
    assert len(set(sizes)) > 2 and sizes[-1] == (0, 0)
    magnitude = copy.deepcopy(layer).double()
    for parameter in magnitude.conv.parameters():
        parameter.data.abs_()
    with torch.no_grad():
        exact = copy.deepcopy(layer).double()(x.double())
        bound = rounding_bound(exact, magnitude(x.double().abs()), 16 * 9 + 1)
        assert worst_ratio(plain(x), exact, bound) <= 1
        exported = torch.export.export(plain, (x,)).module()
        assert torch.equal(exported(x), plain(x))
    macs = sum(i * o for i, o in sizes) * 9 * 36
    assert count(plain, (11, 11), 16).macs == macs


def test_training_moves_channels_and_the_grouping_is_whole_at_every_step():
    layer = Assigned(rate=100).build(ConvSpec(8, 8, 3, padding=1))
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(128, 3))
    begun = groupings(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    x, labels = torch.randn(48, 8, 4, 4), torch.randint(3, (48,))
    for step in range(40):
        set_progress(model, step / 40)
        loss = F.cross_entropy(model(x), labels) + penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for side in ("inputs", "outputs"):
            named = [c for group in groupings(model)["0"]["groups"] for c in group[side]]
            assert sorted(named) == list(range(8))
    assert groupings(model) != begun
    assert not learned_modules(deploy(model))


def test_a_loaded_grouping_is_kept_whatever_is_trained():
    layer, again = scattered(), AssignedConv(SPEC, 4)
    load_groupings(again, groupings(layer))
    optimizer = torch.optim.SGD(again.parameters(), 0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        again(torch.randn(2, 16, 5, 5)).square().mean().backward()
        optimizer.step()
    assert groupings(again) == groupings(layer)
    resumed = AssignedConv(SPEC, 4)
    resumed.load_state_dict(again.state_dict())
    assert groupings(resumed) == groupings(layer)


def test_two_models_and_all_processes_decide_by_their_own_weights_alone():
    torch.manual_seed(1)
    first = AssignedConv(SPEC, 4)
    torch.manual_seed(1)
    second, other = AssignedConv(SPEC, 4), scattered()
    other(torch.randn(2, 16, 5, 5))
    first(torch.randn(1, 16, 8, 8))
    assert groupings(first) == groupings(second) != groupings(other)


def test_a_damaged_grouping_is_refused():
    layer = scattered()
    table = layer.grouping()
    groups = table["groups"]
    for wrong, reason in (
        ({**table, "kind": "groupable"}, "is of kind 'groupable'"),
        ({"groups": groups}, "has no kind or no groups"),
        ({**table, "groups": [*groups, {"inputs": [], "outputs": []}]}, "has 5 groups instead of 4"),
        ({**table, "groups": groups[1:]}, "must name each of the 16 inputs once"),
    ):
        with pytest.raises(PlanError, match=reason):
            layer.load_grouping(wrong)


def test_impossible_numbers_are_refused_with_their_names():
    with pytest.raises(StrategyError, match=r"groups=8: must be at most in_channels=3 and out_channels=16"):
        Assigned(groups=8).build(ConvSpec(3, 16, 3))
    with pytest.raises(StrategyError, match="groups=1: must be an int of at least 2"):
        Assigned(groups=1)
