"""Condensing, of inputs (condensed) and of outputs (reactivated): schedule, choice, training, deployment."""

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import regroup
from regroup.errors import PlanError, StrategyError
from regroup.ops.bounds import rounding_bound, worst_ratio
from regroup.ops.counting import count
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy
from regroup.strategies.condensed import CondensedConv
from regroup.strategies.condensing import CondensingConv, kept_at, stage_at
from regroup.strategies.learning import (
    deploy,
    groupings,
    learned_modules,
    load_groupings,
    penalty,
    set_progress,
)
from regroup.strategies.reactivated import ReactivatedConv
from regroup.training import train
from tests.processes import run_program
from tests.strategies import condensing_pair
from tests.strategies.condensing_pair import network
from tests.training.cases import config, data, equal

BOTH = pytest.mark.parametrize("layer", [CondensedConv, ReactivatedConv])


def official_mask(weights, groups, factor, transposed):
    """Drop as the papers say, stage after stage, with the weights that the layer has in each stage.

    Written with one number at a time: weights is a list of (out, in) arrays, one for each stage. Of equally
    important channels the later ones go first.
    """
    kernels = [w.T if transposed else w for w in weights]
    members, channels = kernels[0].shape
    mask = np.ones((members, channels), bool)
    for kernel in kernels:
        for group in range(groups):
            rows = range(group, members, groups)
            left = [c for c in range(channels) if mask[group, c]]
            left.sort(key=lambda c, rows=rows, kernel=kernel: (sum(abs(kernel[r, c]) for r in rows), -c))
            for channel in left[: channels // factor]:
                for row in rows:
                    mask[row, channel] = False
    return mask.T if transposed else mask


@BOTH
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(1, 3), st.integers(0, 2**31))
def test_each_stage_drops_what_is_least_important_then(layer, groups, factor, wide, seed):
    spec = ConvSpec(groups * wide * factor, groups * wide * factor, 1)
    module, generator = layer(spec, groups, factor), np.random.default_rng(seed)
    weights = []
    for stage in range(1, factor):
        numbers = generator.permutation(spec.in_channels * spec.out_channels)  # their sums are exact
        weights.append(numbers.reshape(spec.out_channels, -1))
        with torch.no_grad():
            module.conv.weight.copy_(torch.tensor(weights[-1])[:, :, None, None])
        set_progress(module, stage / (factor - 1) / 2)
    expected = official_mask(weights, groups, factor, layer is ReactivatedConv)
    assert np.array_equal(module.mask()[:, :, 0, 0].numpy(), expected)


@given(st.integers(2, 16), st.integers(1, 400))
def test_stages_come_when_the_official_code_has_them(factor, steps):
    for step in range(steps + 1):
        progress = step / steps
        for i in range(factor - 1):
            if progress * 2 < (i + 1) / (factor - 1):
                stage = i
                break
        else:
            stage = factor - 1
        assert stage_at(progress, factor) == stage


@given(st.integers(1, 300), st.integers(1, 16))
def test_every_channel_number_ends_at_the_share_that_the_factor_says(channels, factor):
    numbers = [kept_at(p / 40, channels, factor) for p in range(41)]
    assert numbers[0] == channels
    assert numbers[20:] == [channels // factor] * 21
    assert numbers == sorted(numbers, reverse=True)
    drops = {a - b for a, b in pairwise(numbers)} - {0}
    if channels % factor == 0 and factor <= 11:  # more stages than 20 steps can show
        assert drops <= {channels // factor}


def small(layer, **options):
    return layer(ConvSpec(12, 24, 3, padding=1, bias=True), 3, 4, **options)


@BOTH
def test_one_jump_drops_what_many_small_steps_drop(layer):
    slow = small(layer)
    quick = copy.deepcopy(slow)
    for step in range(101):
        set_progress(slow, step / 100)
    set_progress(quick, 0.7)
    assert torch.equal(slow.kept, quick.kept)
    assert slow.kept.sum(1).tolist() == [slow.channels // 4] * 3


@BOTH
def test_what_is_dropped_does_not_come_back(layer):
    module, before = small(layer), None
    for step in range(21):
        with torch.no_grad():
            module.conv.weight.normal_()
        set_progress(module, step / 20)
        assert before is None or not (module.kept & ~before).any()
        before = module.kept.clone()
    set_progress(module, 0)
    assert torch.equal(module.kept, before)


@BOTH
def test_what_is_dropped_gets_no_gradient(layer):
    module = small(layer)
    set_progress(module, 0.4)
    module(torch.randn(2, 12, 5, 5)).square().sum().backward()
    dropped = ~module.mask().expand_as(module.conv.weight)
    assert dropped.any()
    assert not module.conv.weight.grad[dropped].any()
    assert module.conv.weight.grad[~dropped].all()


@BOTH
def test_the_penalty_is_the_group_lasso_until_condensing_is_over(layer):
    module = small(layer, lasso=0.25).double()
    set_progress(module, 0.2)
    weight, total = module.conv.weight.detach() * module.mask(), 0.0
    kernel = weight.transpose(0, 1) if layer is ReactivatedConv else weight
    for group in range(3):
        for channel in range(module.channels):
            total += max(float(kernel[group::3, channel].square().sum()), 1e-6) ** 0.5
    assert penalty(module).item() == pytest.approx(0.25 * total, rel=1e-12)
    penalty(module).backward()
    assert module.conv.weight.grad.any()
    set_progress(module, 0.5)
    assert penalty(module).item() == 0
    assert penalty(small(layer)).item() == 0


@BOTH
@pytest.mark.parametrize("progress", [0, 0.2, 0.4, 0.5])
def test_deployed_it_gives_the_same_integers_at_every_stage(layer, progress):
    module = layer(ConvSpec(12, 24, 3, stride=2, padding=1, bias=True), 3, 4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape))
    set_progress(module, progress)
    plain = deploy(module)
    x = torch.randint(-8, 9, (2, 12, 9, 7)).float()
    assert torch.equal(plain(x), module(x))
    (conv,) = (m for m in plain.modules() if isinstance(m, nn.Conv2d))
    assert conv.groups == 3
    assert not learned_modules(plain)


@BOTH
@torch.no_grad()
def test_deployed_it_is_within_the_rounding_bound_with_a_batch_norm_before_it(layer):
    module = layer(ConvSpec(12, 24, 1), 3, 4, norm=True, act="relu", drop_rate=0.5)
    for _ in range(3):
        module(torch.randn(8, 12, 4, 4) * 2 + 1)
    module.eval()
    set_progress(module, 1)
    plain, x = deploy(module), torch.randn(4, 12, 5, 5)
    normed = module.act(module.norm(x)).double()
    weight = module.conv.weight.double() * module.mask()
    exact, magnitude = F.conv2d(normed, weight), F.conv2d(normed.abs(), weight.abs())
    for result in (module(x), plain(x)):
        assert worst_ratio(result, exact, rounding_bound(exact, magnitude, terms=12)) <= 1


@BOTH
def test_an_output_that_no_group_feeds_is_the_bias(layer):
    module = small(layer)
    table = module.grouping()
    side = layer.chosen
    for group in table["groups"]:
        group[side] = group[side][:2]
    module.load_grouping(table)
    y = deploy(module)(torch.randn(1, 12, 4, 4))
    unfed = (~module.mask().any(1)).flatten().nonzero().flatten().tolist()
    assert len(unfed) == (22 if layer is ReactivatedConv else 0)
    for channel in unfed:
        assert torch.equal(y[0, channel], module.conv.bias[channel].expand(4, 4))


@BOTH
def test_the_deployed_layer_exports(layer):
    module = small(layer)
    set_progress(module, 1)
    plain, x = deploy(module), torch.randn(2, 12, 6, 6)
    exported = torch.export.export(plain, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    assert torch.equal(exported.module()(x[:1]), plain(x[:1]))


@BOTH
def test_a_grouping_is_saved_as_json_and_loaded_in_place_of_learning(layer):
    first, second = nn.Sequential(small(layer)), nn.Sequential(small(layer))
    set_progress(first, 1)
    text = json.dumps(groupings(first))
    load_groupings(second, json.loads(text))
    assert json.dumps(groupings(second)) == text
    set_progress(second, 1)
    assert json.dumps(groupings(second)) == text
    assert penalty(second).item() == 0


@BOTH
def test_the_table_lists_every_connection(layer):
    module = small(layer)
    set_progress(module, 0.3)
    mask = torch.zeros(24, 12, dtype=torch.bool)
    for group in module.grouping()["groups"]:
        for k in group["outputs"]:
            mask[k, group["inputs"]] = True
    assert torch.equal(mask, module.mask()[:, :, 0, 0])


def spoiled(table, **changes):
    return {**table, "groups": [{**g, **changes} for g in table["groups"]]}


@BOTH
def test_a_table_that_is_damaged_or_of_another_layer_is_refused(layer):
    module = small(layer)
    set_progress(module, 1)
    kept, table, side = module.kept.clone(), module.grouping(), layer.chosen
    fewer = copy.deepcopy(table)
    fewer["groups"][0][side].pop()
    for wrong in (
        {},
        {"kind": table["kind"], "groups": 3},
        {**table, "kind": "another"},
        {**table, "groups": table["groups"][1:]},
        spoiled(table, **{side: [0, 1, module.channels]}),
        spoiled(table, **{side: [0, 1, 1]}),
        spoiled(table, **{side: [0, 1, -1]}),
        spoiled(table, **{side: [0, 1, "2"]}),
        spoiled(table, **{side: []}),
        spoiled(table, **{layer.split: [0]}),
        fewer,
    ):
        with pytest.raises(PlanError):
            module.load_grouping(wrong)
    with pytest.raises(PlanError, match="of other layers"):
        load_groupings(nn.Sequential(module), {"1": table})
    assert torch.equal(module.kept, kept)


def test_layers_that_cannot_be_condensed_are_refused_by_their_numbers():
    with pytest.raises(StrategyError, match="groups=4: must be a divisor of out_channels=30"):
        parse_strategy("condensed").build(ConvSpec(16, 30, 3))
    with pytest.raises(StrategyError, match="factor=4: must be at most in_channels=3"):
        parse_strategy("condensed").check(ConvSpec(3, 32, 3))
    with pytest.raises(StrategyError, match="groups=4: must be a divisor of in_channels=30"):
        parse_strategy("reactivated").check(ConvSpec(30, 16, 3))
    with pytest.raises(StrategyError, match="factor=8: must be at most out_channels=4"):
        parse_strategy("reactivated:factor=8").check(ConvSpec(16, 4, 3))
    for text in ("condensed:groups=0", "reactivated:factor=0", "condensed:lasso=-1", "condensed:lasso=nan"):
        with pytest.raises(StrategyError, match="at least"):
            parse_strategy(text)


@pytest.mark.parametrize("spec", [ConvSpec(16, 32, 3, padding=1, bias=True), ConvSpec(32, 16, 1, stride=2)])
def test_it_costs_what_a_grouped_convolution_costs(spec):
    fixed = parse_strategy("grouped:groups=4").cost(spec, (9, 9))
    for name in ("condensed", "reactivated"):
        strategy = parse_strategy(name)
        assert strategy.cost(spec, (9, 9)) == fixed
        learning = count(strategy.build(spec), (9, 9))
        assert (learning.parameters, learning.macs) == (spec.cost((9, 9)).parameters, spec.cost((9, 9)).macs)


# ---- training


def kept(model):
    return [m.kept for m in model.modules() if isinstance(m, CondensingConv)]


@BOTH
@pytest.mark.parametrize("changes", [{"epochs": 1}, {"epochs": 30}, {"epochs": 1, "batch_size": 96}])
def test_a_run_of_any_length_ends_complete(layer, changes):
    model = network(layer)
    train(model, data(), config(**changes))
    assert kept(model)[0].sum(1).tolist() == [2, 2]
    x = torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(deploy(model)(x), model(x))


def test_so_does_the_moving_average_of_one():
    model = network()
    train(model, data(), config(epochs=2, model_ema=True))
    assert kept(model)[0].sum(1).tolist() == [2, 2]


class Stop(Exception):
    """Raised in place of whatever ends a process."""


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_that_was_resumed_ends_in_the_same_bits_as_one_that_was_not(tmp_path, after):
    def stop(result):
        if result.epoch == after:
            raise Stop

    whole, resumed = network(), network()
    train(whole, data(), config(epochs=4))
    options = config(epochs=4, output=tmp_path, resume=True)
    with pytest.raises(Stop):
        train(network(), data(), options, on_epoch=stop)
    train(resumed, data(), options)
    assert equal(whole, resumed)


def test_two_models_in_one_process_do_not_disturb_each_other():
    alone, one, other = network(), network(), network()
    x = torch.randn(4, 1, 6, 6)
    for step in range(10):
        set_progress(alone, step / 10)
        alone(x)
    for step in range(10):
        set_progress(one, step / 10)
        one(x)
        set_progress(other, 0.1)
        other(x)
    assert torch.equal(kept(one)[0], kept(alone)[0])
    assert kept(other)[0].all()


def test_two_processes_end_in_the_grouping_of_one(tmp_path):
    ran = run_program(condensing_pair.main, tmp_path, GLOO_SOCKET_IFNAME="lo")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    outcomes = json.loads(ran.stdout)
    first, second = outcomes["pair"]
    assert first["weights"] == second["weights"]
    assert first["buffers"] == second["buffers"]
    tables = [run["buffers"][3] for run in (first, outcomes["alone"])]
    assert tables[0] == tables[1]
    assert [sum(row) for row in tables[0]] == [2, 2]


def test_a_loop_of_ones_own_needs_three_calls():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 3))
    changes = regroup.replace(model, "condensed:groups=2,lasso=0.001")
    assert changes.replaced == ["0", "2"]
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    x, y = torch.randn(12, 4, 6, 6), torch.arange(12) % 3
    for step in range(6):
        set_progress(model, step / 6)
        loss = F.cross_entropy(model(x), y) + penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    plain = deploy(model)
    assert not learned_modules(plain)
    torch.testing.assert_close(plain(x), model.eval()(x))
    assert [len(g["inputs"]) for g in groupings(model)["2"]["groups"]] == [4, 4]
