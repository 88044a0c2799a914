"""Learned kernel sizes: what is chosen under a budget, what is deployed, and budgets for whole networks."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import regroup
from regroup.errors import PlanError, SpecError, StrategyError
from regroup.ops.counting import count
from regroup.spec import ConvSpec
from regroup.strategies.learning import groupings, load_groupings
from regroup.strategies.mixed import Mixed, MixedConv
from regroup.strategies.mixed_learned import MixedLearned, MixingConv, choose_sizes, share_budget
from regroup.training import train
from tests.training.cases import config, data, equal

SPEC = ConvSpec(24, 16, 3, padding=1)


def uneven(strategy, spec=SPEC):
    layer = strategy.build(spec)
    nn.init.uniform_(layer.gates, -1.5, 1.5)
    return layer


def worth(gains, costs, choice):
    rows = np.arange(len(gains))
    return gains[rows, choice].sum(), costs[rows, choice].sum()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=1, max_size=5), st.floats(0, 1))
def test_the_choice_keeps_the_budget_and_misses_the_best_by_one_channel_at_most(steps, share):
    gains = np.cumsum(np.array(steps, dtype=np.float64), 1)
    costs = np.tile([9.0, 25.0, 49.0], (len(gains), 1))
    budget = len(gains) * (9 + share * 40)
    gain, cost = worth(gains, costs, choose_sizes(gains, costs, budget))
    assert cost <= budget * (1 + 2**-40)
    every = (np.array(c) for c in itertools.product(range(3), repeat=len(gains)))
    best = max(g for g, c in (worth(gains, costs, choice) for choice in every) if c <= budget)
    assert gain >= best - gains.max()


def test_channels_whose_outer_rings_have_small_gates_get_small_kernels():
    layer = MixedLearned(sparsity=0.1).build(SPEC)
    with torch.no_grad():
        layer.gates[:8, 1:] = 0.01
        layer.gates[8:16, 2:] = 0.01
    layer.set_progress(1)
    assert layer.size.tolist() == [0] * 8 + [1] * 8 + [2] * 8


def test_the_learned_layer_costs_no_more_than_equal_parts():
    for kernels in ((3, 5, 7), (3, 5, 7, 9, 11)):
        layer = uneven(MixedLearned(kernels=kernels))
        layer.set_progress(1)
        cost = count(regroup.deploy(layer), (20, 20), 24)
        equal_parts = Mixed(kernels=kernels).cost(ConvSpec(24, 16, 3, padding=1), (20, 20))
        taps = sum(len(g["inputs"]) * g["kernel"] ** 2 for g in layer.grouping()["kernels"])
        assert cost.macs == (taps + 16 * 24) * 400
        assert cost.macs <= equal_parts.macs
        assert cost.macs > equal_parts.macs - kernels[-1] ** 2 * 400


@pytest.mark.parametrize("progress", [0, 0.5])
@pytest.mark.parametrize("pointwise", [True, False])
def test_deployed_is_a_mixed_convolution_and_equals_the_learned_one(progress, pointwise):
    spec = ConvSpec(24, 24, 3, stride=2, padding=1, bias=True)
    layer = uneven(MixedLearned(kernels=(3, 5, 7, 9, 11), pointwise=pointwise), spec).double().eval()
    layer.set_progress(progress)
    x = torch.randn(2, 24, 15, 13, dtype=torch.float64)
    plain = regroup.deploy(layer)
    (mixed,) = (m for m in plain.modules() if isinstance(m, MixedConv))
    groups = [g for g in layer.grouping()["kernels"] if g["inputs"]]
    assert mixed.sizes == ([len(g["inputs"]) for g in groups] if progress else [24])
    if progress:
        assert [m.kernel_size[0] for m in mixed] == [g["kernel"] for g in groups]
    bound = 2**-45 * layer(x).abs().max()
    assert (plain(x) - layer(x)).abs().max() <= bound
    exported = torch.export.export(plain, (x,)).module()
    assert (exported(x) - plain(x)).abs().max() <= bound


def test_each_channel_computes_with_the_centre_of_the_shared_kernel():
    layer = uneven(MixedLearned(pointwise=False), ConvSpec(6, 6, 3, padding=1))
    with torch.no_grad():
        layer.gates.fill_(1)
    layer.choose(torch.tensor([0, 1, 2, 0, 1, 2]))
    x = torch.randint(-4, 5, (1, 6, 9, 9)).float()
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-4, 5, layer.weight.shape))
    for c, k in enumerate([3, 5, 7, 3, 5, 7]):
        cut = (7 - k) // 2
        kernel = layer.weight[c : c + 1, :, cut : 7 - cut, cut : 7 - cut]
        assert torch.equal(layer(x)[:, c : c + 1], F.conv2d(x[:, c : c + 1], kernel, padding=k // 2))


def test_once_chosen_sizes_stay_and_models_do_not_disturb_each_other():
    layer, other = uneven(MixedLearned()), uneven(MixedLearned())
    layer.set_progress(0.29)
    assert not layer.chosen
    assert layer.penalty() > 0
    layer.set_progress(0.3)
    sizes = layer.size.clone()
    nn.init.uniform_(layer.gates)
    layer.set_progress(1)
    assert torch.equal(layer.size, sizes)
    assert layer.penalty() == 0
    assert not other.chosen


def test_a_jump_in_progress_is_many_small_steps_and_a_saved_layer_goes_on():
    jumping, stepping = uneven(MixedLearned()), uneven(MixedLearned())
    stepping.load_state_dict(jumping.state_dict())
    jumping.set_progress(1)
    for i in range(11):
        stepping.set_progress(i / 10)
    assert equal(jumping, stepping)
    again = MixedLearned().build(SPEC)
    again.load_state_dict(jumping.state_dict())
    x = torch.randn(1, 24, 8, 8)
    assert torch.equal(again(x), jumping(x))


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )
    regroup.replace(model, "mixed_learned")
    return model


@pytest.mark.parametrize("epochs", [1, 30])
def test_runs_of_any_length_end_with_sizes(epochs):
    model = network()
    train(model, data(shape=(3, 8, 8)), config(epochs=epochs))
    for table in groupings(model).values():
        assert sorted(c for group in table["kernels"] for c in group["inputs"]) == list(range(8))


def test_a_plain_training_loop_needs_two_calls():
    model, steps = network(), 6
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        regroup.set_progress(model, step / steps)
        x, y = torch.randn(8, 3, 8, 8), torch.randint(4, (8,))
        loss = F.cross_entropy(model(x), y) + regroup.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    regroup.set_progress(model, 1)
    table = json.loads(json.dumps(groupings(model)))
    again = network()
    load_groupings(again, table)
    assert groupings(again) == table


def test_a_network_shares_one_budget_of_macs_or_of_time():
    model = network()
    layers = [m for m in model.modules() if isinstance(m, MixingConv)]
    with torch.no_grad():
        layers[1].gates[:, 1:] = 0.01
    sides = {"2": (8, 8), "4": (8, 8)}
    budget = 8 * 64 * 49 + 8 * 16 * 9
    tables = share_budget(model, budget, lambda name, spec: spec.cost(sides[name]).macs)
    assert layers[0].size.tolist() == [2] * 8
    assert layers[1].size.tolist() == [0] * 8
    assert tables == groupings(model)
    times = {3: 1.0, 5: 1.1, 7: 9.0}  # as they might be measured
    share_budget(model, 16 * 1.1, lambda name, spec: times[spec.kernel_size[0]])
    assert all(layer.size.tolist() == [1] * 8 for layer in layers)
    with pytest.raises(StrategyError, match="budget=10: must be at least 16, what the smallest kernels cost"):
        share_budget(model, 10, lambda name, spec: times[spec.kernel_size[0]])
    with pytest.raises(StrategyError, match="rising with the kernel size; see layer 2"):
        share_budget(model, 100, lambda name, spec: 1.0)


def test_a_table_of_another_layer_is_refused():
    layer = uneven(MixedLearned())
    layer.set_progress(1)
    table = layer.grouping()
    for other in (MixedLearned(kernels=(3, 5)).build(SPEC), MixedLearned().build(ConvSpec(25, 16, 3))):
        with pytest.raises(PlanError, match="is not of a mixed_learned layer"):
            other.load_grouping(table)
    for damaged in ({}, {**table, "kind": "mixed"}, {**table, "kernels": table["kernels"][:1]}):
        with pytest.raises(PlanError, match="is not of a mixed_learned layer"):
            layer.load_grouping(damaged)


def test_wrong_parameters_are_said():
    with pytest.raises(StrategyError, match=r"kernels=\(3, 4\): must be rising ints"):
        MixedLearned(kernels=(3, 4))
    with pytest.raises(StrategyError, match=r"budget=0\.3: must be at least 0\.3253, the smallest"):
        MixedLearned(budget=0.3).build(SPEC)
    with pytest.raises(StrategyError, match="budget=0: must be a number above 0"):
        MixedLearned(budget=0)
    with pytest.raises((StrategyError, SpecError), match="centred"):
        MixedLearned().build(ConvSpec(8, 8, 2, stride=2))
