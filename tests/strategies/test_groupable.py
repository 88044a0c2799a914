"""Groupable: the Kronecker mask, the shared budget, and the plain grouped convolution that it becomes."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regroup import deploy, penalty, set_progress
from regroup.errors import PlanError, StrategyError
from regroup.ops.counting import count
from regroup.ops.layers import explicit
from regroup.spec import ConvSpec
from regroup.strategies.groupable import Groupable, GroupableConv, gates_of
from regroup.strategies.learning import groupings, load_groupings

SPEC = ConvSpec(16, 16, 3, padding=1)


def with_gates(gates, spec=SPEC, **options):
    layer = GroupableConv(spec, **{"budget": 4, **options})
    layer.gates.data = torch.tensor(gates) - 0.5
    return layer


def published_mask(gates, out_channels, in_channels):
    """Aggregate pairs of 2x2 matrices by outer products, as the code that is followed does."""
    parts = [g * torch.ones(2, 2) + (1 - g) * torch.eye(2) for g in gates]
    while len(parts) > 1:
        pairs = [
            torch.outer(a.flatten(), b.flatten())
            .view(*a.shape, *b.shape)
            .transpose(1, 2)
            .reshape(len(a) * len(b), -1)
            for a, b in zip(parts[::2], parts[1::2], strict=False)
        ]
        parts = pairs + (parts[-1:] if len(parts) % 2 else [])
    return parts[0].view(out_channels, in_channels)


@pytest.mark.parametrize("gates", product((0.0, 1.0), repeat=4))
def test_every_setting_of_the_gates_equals_its_definition_and_is_deployed_exactly(gates):
    layer = with_gates(gates).eval()
    mask = layer.mask()
    assert torch.equal(mask, published_mask(gates, 16, 16))
    assert int(layer.connections()) == int(mask.sum()) == 2 ** int(4 + sum(gates))
    layer.conv.weight.data = torch.randint(-8, 8, layer.conv.weight.shape).float()
    x = torch.randint(-8, 8, (2, 16, 5, 5)).float()
    expected = Groupable().reference(layer, x)
    plain = deploy(layer)
    groups = 2 ** gates.count(0.0)
    (grouped,) = (m for m in plain.modules() if isinstance(m, nn.Conv2d))
    assert grouped.groups == groups
    assert torch.equal(layer(x), expected) and torch.equal(plain(x), expected)
    assert count(plain, (5, 5), 16) == SPEC.cost((5, 5), groups)


def test_closed_late_gates_are_shuffled_groups_and_closed_early_ones_plain_groups():
    assert with_gates([0.0, 0.0, 1.0, 1.0]).groups()[0] == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert with_gates([1.0, 1.0, 0.0, 0.0]).groups()[0] == ([0, 4, 8, 12], [0, 4, 8, 12])
    plain = deploy(with_gates([0.0, 0.0, 1.0, 1.0]))
    assert type(plain) is nn.Conv2d and plain.groups == 4
    x = torch.randn(1, 16, 5, 5)
    assert torch.equal(plain(x), F.conv2d(x, plain.weight, None, 1, 1, 1, 4))
    assert explicit(plain, x).shape == x.shape


def test_other_channel_numbers_have_dense_blocks():
    spec = ConvSpec(24, 40, 1)
    layer = with_gates([0.0, 1.0, 0.0], spec)
    assert gates_of(spec) == 3
    assert layer.mask().sum(0).tolist() == [10] * 24
    assert [(len(i), len(o)) for i, o in layer.groups()] == [(6, 10)] * 4
    assert layer.groups()[0][0] == [0, 1, 2, 6, 7, 8]


def test_the_gradient_passes_straight_through():
    layer, x = with_gates([0.0, 1.0, 0.0, 1.0]).double(), torch.randn(2, 16, 5, 5, dtype=torch.float64)
    y = layer(x)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    gates = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.float64)
    for g in gates:
        mask = torch.kron(mask, torch.stack([torch.stack([g * 0 + 1, g]), torch.stack([g, g * 0 + 1])]))
    (F.conv2d(x, layer.conv.weight * mask[:, :, None, None], None, 1, 1) * direction).sum().backward()
    error = float((layer.gates.grad - gates.grad).abs().max())
    assert error <= 2**-45 * float(gates.grad.abs().max())


def test_the_budget_is_shared_by_the_layers_of_a_model():
    small, large = ConvSpec(8, 8, 1), ConvSpec(32, 32, 1)
    model = nn.Sequential(
        with_gates([1.0] * 3, small, pressure=0.1), with_gates([0.0] * 5, large, pressure=0.1)
    )
    there, allowed = 64 + 32, (64 + 1024) // 4
    assert penalty(model[0]) > 0 and there < allowed
    assert penalty(model) == 0
    model[1].gates.data += 1
    excess = torch.tensor((64 + 1024) / allowed)
    torch.testing.assert_close(penalty(model), excess**0.1 - 1, rtol=0, atol=0)
    penalty(model).backward()
    assert (model[1].gates.grad > 0).all() and (model[0].gates.grad > 0).all()


def test_with_a_loss_of_one_the_penalty_is_the_published_factor():
    layer = with_gates([1.0, 1.0, 1.0, 1.0], budget=8, pressure=0.02).double()
    added = penalty(layer) + 1
    (gradient,) = torch.autograd.grad(added, layer.gates)
    gates = torch.ones(4, dtype=torch.float64, requires_grad=True)
    factor = (256 / 8 / 2 ** (4 + gates.sum())) ** -0.02
    (expected,) = torch.autograd.grad(factor, gates)
    assert abs(float((added - factor).detach())) < 2**-50
    assert float((gradient - expected).abs().max()) < 2**-50


def test_a_budget_smaller_than_depthwise_is_depthwise():
    assert with_gates([0.0] * 4, budget=32).allowed() == 16
    assert penalty(with_gates([0.0] * 4, budget=32)) == 0


def test_a_loop_of_ones_own_learns_within_the_budget():
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        Groupable(groups=4, pressure=2.0).build(SPEC),
        nn.Flatten(),
        nn.Linear(256, 2),
    )
    x = torch.randn(64, 1, 4, 4)
    labels = (x[:, 0, :2].sum((1, 2)) > x[:, 0, 2:].sum((1, 2))).long()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model[2].gates.data.fill_(0.05)
    losses = []
    for step in range(60):
        set_progress(model, step / 60)
        loss = F.cross_entropy(model(x), labels) + penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert int(model[2].connections()) <= 128 < 256
    assert len(groupings(model)["2"]["groups"]) >= 2


def test_a_layer_in_training_can_be_resumed_and_a_loaded_grouping_stays():
    layer = with_gates([0.0, 1.0, 0.0, 1.0])
    resumed = GroupableConv(SPEC, 4)
    resumed.load_state_dict(layer.state_dict())
    assert groupings(resumed) == groupings(layer) == groupings(copy.deepcopy(layer))
    fixed = GroupableConv(SPEC, 4)
    load_groupings(fixed, groupings(layer))
    (fixed(torch.randn(2, 16, 5, 5)).square().sum() + penalty(fixed)).backward()
    assert not fixed.gates.grad.any() and fixed.conv.weight.grad.any()
    assert groupings(fixed) == groupings(layer)


def test_half_of_the_gates_start_open_and_the_cost_says_so():
    for _ in range(5):
        layer = Groupable().build(SPEC)
        assert sum(groupings(layer)[""]["gates"]) == 2
        assert layer.gates.abs().max() < 1e-7
    assert Groupable().cost(SPEC, (5, 5)) == SPEC.cost((5, 5), 4)


def test_a_damaged_grouping_is_refused():
    layer = with_gates([0.0, 1.0, 0.0, 1.0])
    table = layer.grouping()
    for wrong, reason in (
        ({**table, "kind": "assigned"}, "is of kind 'assigned'"),
        ({**table, "gates": [0, 1]}, "must have 4 gates of 0 or 1"),
        ({**table, "gates": [0, 1, 1, 0]}, "has other groups than its gates"),
        ({**table, "groups": table["groups"][:-1]}, "must name each of the 16 inputs once"),
    ):
        with pytest.raises(PlanError, match=reason):
            layer.load_grouping(wrong)


def test_odd_channels_are_refused_by_name():
    with pytest.raises(StrategyError, match=r"in_channels=3: must be even"):
        Groupable().build(ConvSpec(3, 16, 3))
    with pytest.raises(StrategyError, match=r"out_channels=7: must be even"):
        Groupable().build(ConvSpec(16, 7, 3))
