"""Learned scales: which neurons are chosen, what is deployed, and the two steps of the paper."""

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regroup
from regroup.errors import PlanError, SpecError, StrategyError
from regroup.networks.scalenet import learned_structure
from regroup.ops.counting import count
from regroup.spec import ConvSpec
from regroup.strategies.learning import groupings, load_groupings
from regroup.strategies.scaled import Scaled, ScaledConv, ScaledStandIn
from regroup.strategies.scaled_learned import (
    ScaledLearned,
    allocate,
    choose_neurons,
    learned_allocation,
)
from regroup.training import train
from tests.training.cases import config, data, equal

SPEC = ConvSpec(6, 8, 3, padding=1)


def importances(layer):
    return [m.weight for m in layer.seed.scaled.norms.modules() if isinstance(m, nn.BatchNorm2d)]


def uneven(strategy, spec=SPEC):
    layer = strategy.build(spec)
    for weight in importances(layer):
        nn.init.uniform_(weight, -1.5, 1.5)
    return layer


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from([1, 2, 4])), min_size=3, max_size=9), st.data())
def test_the_choice_keeps_the_budget_and_is_the_best_but_for_one_neuron(neurons, draw):
    values, costs = zip(*neurons, strict=True)
    number = draw.draw(st.integers(1, len(neurons) - 1))
    sets = list(itertools.combinations(range(len(neurons)), number))
    budget = draw.draw(st.sampled_from(sorted({sum(costs[i] for i in s) for s in sets})))
    chosen = choose_neurons(torch.tensor(values).double(), costs, number, budget).tolist()
    assert len(set(chosen)) == number
    assert sum(costs[i] for i in chosen) <= budget
    best = max(sum(values[i] for i in s) for s in sets if sum(costs[i] for i in s) <= budget)
    # a price finds the best choice of its own cost; between two prices one exchange may be wasted
    assert sum(values[i] for i in chosen) >= best - max(values)


def test_without_a_binding_budget_the_most_important_stay():
    importance = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])
    assert choose_neurons(importance, [1.0] * 6, 3, 3).tolist() == [0, 2, 4]


def test_an_output_keeps_its_best_neuron_and_the_others_fill_the_gaps():
    importance = torch.tensor([9.0, 1.0, 0.5, 8.0, 2.0, 0.1])  # outputs 0, 1, 2 at each of two scales
    assert allocate(importance, (1, 2), 3, 1.0).tolist() == [0, 4, 3]


def test_the_learned_layer_costs_no_more_than_equal_parts():
    spec = ConvSpec(16, 32, 3, padding=1)
    layer = uneven(ScaledLearned(), spec)
    layer.set_progress(1)
    cost, equal_parts = count(regroup.deploy(layer), (28, 28), 16), Scaled().cost(spec, (28, 28))
    assert 0.8 * equal_parts.macs < cost.macs <= equal_parts.macs
    assert cost.parameters == equal_parts.parameters + 2 * 32


def test_the_seed_adds_the_scales_and_the_deployed_layer_concatenates_them():
    layer = uneven(ScaledLearned(budget=1.0)).double()
    layer(torch.randn(8, 6, 14, 14, dtype=torch.float64))
    layer.eval()
    x = torch.randn(2, 6, 14, 14, dtype=torch.float64)
    neurons = layer.seed.neurons(x)
    assert torch.equal(layer(x), neurons.view(2, 4, 8, 14, 14).sum(1))
    layer.set_progress(0.3)
    table = layer.grouping()["scales"]
    expected = torch.empty_like(layer(x))
    for i, group in enumerate(table):
        for k, neuron in zip(group["outputs"], group["neurons"], strict=True):
            expected[:, k] = neurons[:, 8 * i + neuron]
    assert torch.equal(layer(x), expected)
    plain = regroup.deploy(layer)
    (scaled,) = (m for m in plain.modules() if isinstance(m, ScaledStandIn))
    widths = {r: m.out_channels for r, m in scaled.scaled.convs.items()}
    assert widths == {str(g["scale"]): len(g["outputs"]) for g in table if g["outputs"]}
    assert (plain(x) - layer(x)).abs().max() <= 2**-45 * expected.abs().max()
    exported = torch.export.export(plain, (x,)).module()
    assert (exported(x) - plain(x)).abs().max() <= 2**-45 * expected.abs().max()


def test_once_chosen_neurons_stay_chosen_and_models_do_not_disturb_each_other():
    layer, other = uneven(ScaledLearned()), uneven(ScaledLearned())
    layer.set_progress(0.29)
    assert not layer.allocated
    assert layer.penalty() > 0
    layer.set_progress(1)
    chosen = layer.chosen.clone()
    assert layer.penalty() == 0
    for weight in importances(layer):
        nn.init.uniform_(weight)
    layer.set_progress(1)
    assert torch.equal(layer.chosen, chosen)
    assert not other.allocated


def test_a_jump_in_progress_is_many_small_steps_and_a_saved_layer_goes_on():
    jumping, stepping = uneven(ScaledLearned()), uneven(ScaledLearned())
    stepping.load_state_dict(jumping.state_dict())
    jumping.set_progress(1)
    for i in range(11):
        stepping.set_progress(i / 10)
    assert equal(jumping, stepping)
    again = ScaledLearned().build(SPEC)
    again.load_state_dict(jumping.state_dict())
    x = torch.randn(1, 6, 8, 8)
    assert torch.equal(again.eval()(x), jumping.eval()(x))


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 4),
    )
    regroup.replace(model, "scaled_learned:scales=1+2+4", where="2")
    return model


@pytest.mark.parametrize("epochs", [1, 30])
def test_runs_of_any_length_end_in_a_complete_allocation(epochs):
    model = network()
    train(model, data(shape=(3, 8, 8)), config(epochs=epochs))
    groups = groupings(model)["2"]["scales"]
    assert sorted(k for group in groups for k in group["outputs"]) == list(range(8))


def test_the_structure_is_json_from_which_a_new_network_is_trained_from_scratch():
    seed = network()
    regroup.set_progress(seed, 1)
    table = json.loads(json.dumps(groupings(seed)))
    fresh = network(seed=1)
    load_groupings(fresh, table)
    plain = regroup.deploy(fresh).train()
    assert groupings(plain) == {}
    history = train(plain, data(shape=(3, 8, 8)), config(epochs=4))
    assert history.last.train_loss < history.epochs[0].train_loss


def test_a_scalenet_seed_gives_the_structure_of_a_scalenet():
    whole = ((8, 8, 8, 8),)
    seed = regroup.create_model("scalenet50_light", structure=(whole, whole * 2), widths=(8, 16))
    torch.manual_seed(2)
    for module in seed.modules():
        if isinstance(module, ScaledConv):
            for norm in module.norms.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    nn.init.uniform_(norm.weight)
    structure = learned_structure(seed, (8, 12), budget=0.5)
    assert [[sum(row) for row in stage] for stage in structure] == [[8], [12, 12]]
    for stage, outputs in zip(structure, (8, 12), strict=True):
        for row in stage:
            assert sum(n / r**2 for n, r in zip(row, (1, 2, 4, 7), strict=True)) <= 0.5 * outputs
    again = regroup.create_model(
        "scalenet50_light", structure=json.loads(json.dumps(structure)), widths=(8, 16), num_classes=3
    )
    assert again(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    block = next(m for m in seed.modules() if isinstance(m, ScaledConv))
    assert tuple(learned_allocation(block, 8, 0.5).values()) == structure[0][0]


@pytest.mark.parametrize("change", [{"kind": "scaled"}, {"scales": [{"scale": 1}]}, {"scales": 3}])
def test_a_table_of_another_layer_is_refused(change):
    layer = uneven(ScaledLearned())
    layer.set_progress(1)
    table = layer.grouping()
    with pytest.raises(PlanError):
        layer.load_grouping({**table, **change})
    with pytest.raises(PlanError, match="of a layer of 9 outputs"):
        ScaledLearned().build(ConvSpec(6, 9, 3, padding=1)).load_grouping(table)


def test_wrong_parameters_are_said():
    with pytest.raises(StrategyError, match=r"budget=0.01: must be at least 0.02041, what the coarsest"):
        ScaledLearned(budget=0.01)
    with pytest.raises(StrategyError, match=r"scales=\(1, 1\)"):
        ScaledLearned(scales=(1, 1))
    with pytest.raises(StrategyError, match="at=2"):
        ScaledLearned(at=2)
    with pytest.raises(SpecError, match="padding"):
        ScaledLearned().build(ConvSpec(4, 4, 3))
