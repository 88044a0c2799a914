"""Dynamic: the definition at every stage, the official layer, what is executed if deployed, the schedule."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from regroup import deploy, penalty, set_progress
from regroup.errors import PlanError, StrategyError
from regroup.ops import dynamic as ops
from regroup.ops.bounds import rounding_bound, worst_ratio
from regroup.ops.counting import count, count_macs
from regroup.ops.dynamic import DynamicGroupConv
from regroup.ops.order import shuffle
from regroup.spec import ConvSpec
from regroup.strategies import dynamic as learning
from regroup.strategies.dynamic import Dynamic, DynamicConv
from regroup.strategies.learning import groupings, load_groupings
from regroup.testing import ODD_SPECS, SPECS

SPEC = ConvSpec(16, 24, 3, stride=2, padding=1, bias=True)
POINT = ConvSpec(16, 24, 1, bias=True)
TRIED = [spec for spec in SPECS[8:] if Dynamic().why_not(spec) is None]
SAME = ConvSpec(16, 24, (3, 5), padding=(2, 2), dilation=(2, 1), bias=True)


def error(result, expected):
    return float(((result - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("progress", [0, 0.3, 0.6, 1])
@pytest.mark.parametrize("spec", [SPEC, POINT, *TRIED], ids=str)
def test_every_stage_equals_the_definition_and_so_does_its_deployed_form(spec, progress):
    strategy = Dynamic(gate=0.25)
    layer = strategy.build(spec).double().eval()
    set_progress(layer, progress)
    x = torch.randn(3, spec.in_channels, *(12, 14, 6)[: spec.dims], dtype=torch.float64)
    with torch.no_grad():
        expected = strategy.reference(layer, x)
        assert error(layer(x), expected) < 2**-40
        assert error(deploy(layer)(x), expected) < 2**-40


def official(layer, x, inactive):
    """Norm, ReLU, one head after the other with a threshold, as in the official code."""
    x = F.relu(layer.norm(x))
    means, outputs = x.mean((2, 3)), []
    reduce, expand = layer.saliency.reduce, layer.saliency.expand
    heads = zip(
        reduce.weight.flatten(1).chunk(layer.heads),
        expand.weight.flatten(1).chunk(layer.heads),
        expand.bias.chunk(layer.heads),
        layer.conv.weight.chunk(layer.heads),
        strict=True,
    )
    for fc1, fc2, bias, weight in heads:
        saliency = F.relu(F.linear(F.relu(F.linear(means, fc1)), fc2, bias))
        threshold = saliency.topk(inactive, dim=1, largest=False).values.max(1, keepdim=True).values
        kept = saliency.masked_fill(saliency <= threshold, 0)
        outputs.append(F.conv2d(x * kept[:, :, None, None], weight, None, layer.spec.stride, 1))
    return torch.cat(outputs, 1)[:, shuffle(layer.spec.out_channels, layer.heads)]


def test_without_ties_it_is_the_official_layer():
    spec = ConvSpec(96, 16, 3, stride=2, padding=1)
    layer = DynamicConv(spec, heads=4, gate=0.25, norm=True, act="relu").double()
    set_progress(layer, 1)
    x = torch.randn(3, 96, 9, 9, dtype=torch.float64)
    assert layer.saliency.reduce.weight.shape == (4 * 96 // 16, 96, 1, 1)
    nn.init.normal_(layer.norm.bias)
    nn.init.uniform_(layer.saliency.expand.bias, 5, 9)  # no saliency is 0
    for mode in (True, False):
        layer.train(mode)
        assert error(layer(x), official(layer, x, 72)) < 2**-40
    assert error(deploy(layer)(x), official(layer, x, 72)) < 2**-40


def constant_saliency(layer, values):
    """Make the generator give the same saliencies for every image."""
    nn.init.zeros_(layer.saliency.expand.weight)
    layer.saliency.expand.bias.data = values.flatten().to(layer.conv.weight)


def test_of_equal_saliencies_exactly_as_many_go_as_should_and_the_first_stay():
    layer = Dynamic(heads=2, gate=0.5).build(ConvSpec(6, 4, 1))
    constant_saliency(layer, torch.tensor([[0, 0, 0, 0, 0, 0], [1, 2, 1, 1, 0, 1]]))
    set_progress(layer, 1)
    saliency = layer.saliency(torch.randn(2, 6, 3, 3))
    kept = layer.keeps(saliency)[0].int().tolist()
    assert kept == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("spec", [SPEC, POINT, SAME], ids=str)
@pytest.mark.parametrize("at_once", [1, 2**11, 2**19])
def test_on_integers_all_forms_agree_exactly(spec, at_once, monkeypatch):
    monkeypatch.setattr(ops, "GATHERED_WEIGHTS", at_once)
    strategy = Dynamic(gate=0.5)
    layer = strategy.build(spec).eval()
    for parameter in (layer.conv.weight, layer.conv.bias):
        parameter.data = torch.randint(-8, 8, parameter.shape).float()
    constant_saliency(layer, torch.randint(0, 8, (4, 16)))
    set_progress(layer, 1)
    plain, x = deploy(layer), torch.randint(-8, 8, (5, 16, 9, 9)).float()
    with torch.no_grad():
        expected = strategy.reference(layer, x)
        for gathers, scales_weights in product((True, False), repeat=2):
            monkeypatch.setattr(learning, "scales_weights", lambda *_, value=scales_weights: value)
            assert torch.equal(layer(x), expected)
            monkeypatch.setattr(ops, "gathers", lambda *_, value=gathers: value)
            monkeypatch.setattr(ops, "scales_weights", lambda *_, value=scales_weights: value)
            assert torch.equal(plain(x), expected)


@pytest.mark.parametrize("number", [1, 5, 11, 12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_largest_are_the_first_of_the_ranked_where_they_tie_too(dtype, number):
    saliency = torch.randint(0, 4, (3, 2, 12)).to(dtype) / 8
    saliency[saliency == 0] *= -1  # zeros of both signs are equal
    saliency[0, 0, ::2] = 0
    saliency[2, 1, 3] = float("inf")
    expected = ops.ranked(saliency)[..., :number].sort().values
    assert torch.equal(ops.largest(saliency, number).sort().values, expected)


@pytest.mark.parametrize("spec", [SPEC, POINT, SAME], ids=str)
@pytest.mark.parametrize("size", [12, 40])
def test_deployed_it_lies_within_the_rounding_bound(spec, size):
    layer = Dynamic(gate=0.25).build(spec).eval()
    constant_saliency(layer, torch.rand(4, 16))
    set_progress(layer, 1)
    plain, x = deploy(layer), torch.randn(4, 16, size, size)
    magnitude = copy.deepcopy(layer).double()
    for parameter in (magnitude.conv.weight, magnitude.conv.bias):
        parameter.data.abs_()
    assert ops.gathers(spec, 4, plain.kept, (size, size))
    with torch.no_grad():
        exact = copy.deepcopy(layer).double()(x.double())
        # one product more for the scale, one sum more for the bias
        bound = rounding_bound(exact, magnitude(x.double().abs()), plain.kept * spec.taps + 2)
        assert worst_ratio(plain(x), exact, bound) <= 1


def test_executed_macs_fall_with_the_gate_image_by_image():
    spec, size = ConvSpec(64, 64, 3, padding=1), (28, 28)
    for gate in (1, 0.5, 0.25, 0.125):
        layer = Dynamic(gate=gate).build(spec)
        set_progress(layer, 1)
        plain = deploy(layer)
        generator = count(plain.saliency, size, 64).macs
        for images in (1, 3):
            macs = count_macs(plain, torch.randn(images, 64, *size))
            assert macs == images * (generator + round(gate * spec.cost(size).macs))
        assert generator == 2 * 4 * 64 * 8


def test_where_gathering_would_be_slower_zeros_are_multiplied_and_the_cost_says_so():
    spec, strategy = ConvSpec(64, 64, 3, padding=1), Dynamic(gate=0.5)
    assert not ops.gathers(spec, 4, 32, (2, 2))
    assert strategy.cost(spec, (2, 2)).macs > spec.cost((2, 2)).macs


def test_dropped_inputs_get_no_gradient():
    layer = Dynamic(heads=2, gate=0.5).build(ConvSpec(6, 4, 1))
    constant_saliency(layer, torch.tensor([[3, 1, 2, 6, 5, 4], [1, 2, 3, 4, 5, 6]]))
    set_progress(layer, 1)
    layer(torch.randn(2, 6, 3, 3)).sum().backward()
    reached = layer.saliency.expand.bias.grad.view(2, 6) != 0
    assert reached.int().tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]]


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0, 1), st.sampled_from((0.1, 0.25, 0.5, 1.0)))
@settings(max_examples=60, deadline=None)
def test_a_jump_of_progress_equals_many_small_steps_and_nothing_comes_back(steps, last, gate):
    slow, quick = (Dynamic(gate=gate).build(POINT) for _ in range(2))
    for progress in [*sorted([*steps, last])]:
        set_progress(slow, progress)
    set_progress(quick, max([*steps, last]))
    assert slow.kept == quick.kept
    set_progress(quick, 0)
    assert slow.kept == quick.kept


@pytest.mark.parametrize("epochs", [1, 30])
def test_a_short_and_a_long_run_end_complete(epochs):
    layer = Dynamic(gate=0.25).build(POINT)
    kept = []
    for epoch in range(epochs + 1):
        set_progress(layer, epoch / epochs)
        kept.append(layer.kept)
    assert kept[0] == 16 and kept[-1] == 4 and kept == sorted(kept, reverse=True)


def test_the_penalty_is_the_mean_saliency_of_the_last_step():
    layer = Dynamic(lasso=0.5).build(SPEC)
    x = torch.randn(3, 16, 9, 9)
    assert penalty(layer) == 0
    layer(x)
    expected = 0.5 * sum(layer.saliency(x)[:, h].mean() for h in range(4))
    torch.testing.assert_close(penalty(layer), expected, atol=0, rtol=0)
    penalty(layer).backward()
    assert layer.saliency.reduce.weight.grad.any() and layer.conv.weight.grad is None
    assert penalty(layer.eval()) == 0


def test_a_layer_in_the_middle_of_training_can_be_copied_and_resumed():
    layer = Dynamic(gate=0.25).build(SPEC)
    set_progress(layer, 0.5)
    x = torch.randn(2, 16, 9, 9)
    layer(x)
    copied, resumed = copy.deepcopy(layer), Dynamic(gate=0.25).build(SPEC)
    resumed.load_state_dict(layer.state_dict())
    for again in (copied, resumed):
        assert torch.equal(again(x), layer(x))
        set_progress(again, 1)
        assert again.kept == 4
    assert layer.kept == 8  # and no model disturbs another


def test_a_loop_of_ones_own_trains_it():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Dynamic(gate=0.5).build(ConvSpec(8, 8, 3, padding=1)),
        nn.Flatten(),
        nn.Linear(512, 2),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x = torch.randn(64, 1, 8, 8)
    labels = (x[:, 0, :4].sum((1, 2)) > x[:, 0, 4:].sum((1, 2))).long()
    losses = []
    for step in range(60):
        set_progress(model, step / 60)
        loss = F.cross_entropy(model(x), labels) + penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    set_progress(model, 1)
    plain = deploy(model)
    assert losses[-1] < 0.2 * losses[0]
    assert isinstance(plain[3], DynamicGroupConv) and plain[3].kept == 4
    assert (plain(x).argmax(1) == model.eval()(x).argmax(1)).all()


def test_the_deployed_layer_is_exported_with_norm_and_activation():
    layer = DynamicConv(ConvSpec(16, 8, 3, padding=1), norm=True, act="relu").eval()
    set_progress(layer, 1)
    plain, x = deploy(layer), torch.randn(2, 16, 20, 20)
    exported = torch.export.export(plain, (x,)).module()
    assert torch.equal(exported(x), plain(x))


def test_a_grouping_of_another_layer_is_refused():
    layer = Dynamic(gate=0.5).build(POINT)
    table = groupings(layer)
    for wrong, reason in (
        ({**table[""], "kind": "condensed"}, "not of a dynamic layer"),
        ({**table[""], "groups": table[""]["groups"][:2]}, "with 4 heads"),
        ({**table[""], "kept": 3}, "within 8 ... 16, as gate=0.5 says"),
        ({**table[""], "kept": "all"}, "keeps 'all' inputs"),
    ):
        with pytest.raises(PlanError, match=reason):
            load_groupings(layer, {"": wrong})


def test_impossible_numbers_are_refused_with_their_names():
    with pytest.raises(StrategyError, match=r"heads=5: must be a divisor of out_channels=24; use one of 1"):
        Dynamic(heads=5).build(SPEC)
    with pytest.raises(StrategyError, match=r"gate=0.25: must be enough to keep one of in_channels=1"):
        Dynamic(heads=1, gate=0.25).build(ODD_SPECS[0])
    for wrong in ({"gate": 0.0}, {"gate": 1.5}, {"heads": 0}, {"squeeze": 1}, {"lasso": -1.0}):
        (name,) = wrong
        with pytest.raises(StrategyError, match=name):
            Dynamic(**wrong)
