"""Learned groupings in every kind of run: two processes, averaged weights, a loop of one's own."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

import regroup
from regroup.strategies.learning import learned_modules
from regroup.training import train
from tests.processes import run_program
from tests.training import learned_pair
from tests.training.cases import config, data
from tests.training.learned_pair import STRATEGIES, network


def check_complete(grouping, strategy):
    """Whatever a layer of 8 inputs and outputs was to learn, it has learned all of it."""
    kind = strategy.partition(":")[0]
    if kind in ("condensed", "reactivated"):
        side = "inputs" if kind == "condensed" else "outputs"
        assert [len(group[side]) for group in grouping["groups"]] == [4, 4]
    elif kind in ("assigned", "groupable"):
        for side in ("inputs", "outputs"):
            assert sorted(c for group in grouping["groups"] for c in group[side]) == list(range(8))
    elif kind == "dynamic":
        assert grouping["kept"] == 2
    elif kind == "shifted":
        assert grouping["integers"] is True
    else:
        side, parts = ("inputs", "kernels") if kind == "mixed_learned" else ("outputs", "scales")
        assert sorted(c for part in grouping[parts] for c in part[side]) == list(range(8))


def check_deployed(model):
    plain, images = regroup.deploy(model), torch.randn(4, 1, 6, 6)
    assert not learned_modules(plain)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), model.eval()(images))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    ran = run_program(learned_pair.main, tmp_path_factory.mktemp("pair"), GLOO_SOCKET_IFNAME="lo")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_end_in_the_same_complete_grouping(pairs, strategy):
    first, second = (process[strategy] for process in pairs)
    assert first == second
    (grouping,) = first["grouping"].values()
    check_complete(grouping, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_averaged_network_deploys_to_a_complete_grouping(strategy):
    model = network(strategy)
    history = train(model, data(), config(epochs=2, model_ema=True, model_ema_decay=0.5))
    assert history.last.score > 25
    check_complete(regroup.groupings(model)["3"], strategy)
    check_deployed(model)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loop_of_ones_own_needs_three_calls(strategy):
    torch.manual_seed(0)
    model = network(strategy).train()
    images, labels = torch.randn(16, 1, 6, 6), torch.randint(4, (16,))
    optimizer, steps = torch.optim.SGD(model.parameters(), lr=0.05), 12
    for step in range(steps):
        regroup.set_progress(model, step / steps)
        loss = functional.cross_entropy(model(images), labels) + regroup.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    regroup.set_progress(model, 1)
    check_complete(regroup.groupings(model)["3"], strategy)
    check_deployed(model)
    again = network(strategy)
    regroup.load_groupings(again, json.loads(json.dumps(regroup.groupings(model))))
    assert regroup.groupings(again) == regroup.groupings(model)


def test_every_learned_strategy_is_tried():
    from regroup.strategies import parse_strategy, strategies

    spec, tried = regroup.ConvSpec(8, 8, 3, padding=1), {s.partition(":")[0] for s in STRATEGIES}
    given = {name: parse_strategy(name) for name in strategies}
    built = {name: s.build(spec) for name, s in given.items() if s.why_not(spec) is None}
    learned = {name for name, m in built.items() if learned_modules(nn.Sequential(m))}
    assert learned == tried
