"""Whole networks: what conversion promises, held against identities and against the networks themselves."""

import copy

import pytest
import torch
from torch import nn

from regroup.conversion.blocks import BlockConfig, blocks_of, reconstruct
from regroup.conversion.choosing import choices
from regroup.conversion.damage import apart, divergence, shares
from regroup.conversion.norms import reestimate
from regroup.conversion.regrouping import Method, regroup_layers
from regroup.conversion.statistics import heard
from regroup.errors import ParameterError, UnknownNameError
from regroup.networks import create_model
from tests.conversion.linear import correlated, hidden_groups


def small():
    torch.manual_seed(1)
    model = create_model("resnet_small", num_classes=10).eval()
    reestimate(model, [correlated(32, 3, 16)])
    return model


def inner(model):
    found = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels > 3]
    assert len(found) == 8
    return found


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("choice", list(choices))
def test_one_group_gives_the_network_back(choice, repair):
    original = small()
    model, images = copy.deepcopy(original), correlated(4, 3, 16, seed=1)
    once = dict.fromkeys(inner(original), 1)
    found = regroup_layers(model, original, once, [images], Method(choice, repair))
    assert [layer.option for layer in found] == ["grouped:groups=1"] * 8
    if repair:  # up to rounding: it is solved for outputs that were computed in float32
        assert (model(images) - original(images)).abs().max() <= 1e-4 * original(images).abs().max()
        assert max(layer.error for layer in found) <= 1e-8
    else:
        assert torch.equal(model(images), original(images))


def test_a_network_of_hidden_groups_is_found():
    first, _, _ = hidden_groups(8, 16, 4, seed=1)
    second, _, _ = hidden_groups(16, 16, 4, seed=2)
    original = nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), second)
    model, images = copy.deepcopy(original), correlated(40, 8, 8)
    found = regroup_layers(model, original, {"0": 4, "3": 4}, images.split(20))
    assert all(layer.error < 1e-10 for layer in found)
    x = correlated(3, 8, 8, seed=9)
    with torch.no_grad():
        assert (model.eval()(x) - original.eval()(x)).abs().max() <= 1e-5 * original(x).abs().max()
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in original.parameters()) / 3


def test_the_original_is_untouched_and_repair_pays():
    original = small()
    before = copy.deepcopy(original.state_dict())
    batches, groups = list(correlated(48, 3, 16).split(16)), dict.fromkeys(inner(original), 2)
    worst = {}
    for repair in (False, True):
        model = copy.deepcopy(original)
        regroup_layers(model, original, groups, batches, Method("magnitude", repair))
        worst[repair] = sum(apart(model, original, list(groups), batches).values())
        assert {type(m).__name__ for m in model.modules()} >= {"ChannelOrder"}
    assert worst[True] < worst[False]
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())


def test_a_shared_layer_stays_shared():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    original = nn.Sequential(conv, nn.ReLU(), conv)
    model = copy.deepcopy(original)
    found = regroup_layers(model, original, {"0": 2}, [correlated(10, 8, 8)])
    assert len(found) == 1 and model[0] is model[2]


def test_norms_have_the_statistics_of_all_batches():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.9)).train()
    batches = list(correlated(60, 3, 8).split(20))
    assert reestimate(model, batches) == 1
    with torch.no_grad():
        outs = [model[0](images).double() for images in batches]
    mean = torch.stack([y.mean((0, 2, 3)) for y in outs]).mean(0)
    var = torch.stack([y.var((0, 2, 3), unbiased=True) for y in outs]).mean(0)
    assert (model[1].running_mean - mean).abs().max() <= 1e-6 * mean.abs().max()
    assert (model[1].running_var - var).abs().max() <= 1e-6 * var.max()
    assert model[1].momentum == 0.3 and model.training and model[1].training


def test_blocks_come_nearer_to_the_original():
    original = small()
    model, batches = copy.deepcopy(original), list(correlated(48, 3, 16).split(16))
    regroup_layers(model, original, dict.fromkeys(inner(original), 4), batches, Method("contiguous"))
    blocks = blocks_of(original, inner(original))
    assert len(blocks) == 3
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    images = correlated(16, 3, 16, seed=5)
    with torch.no_grad():
        before = (model(images) - original(images)).square().mean()
    fits = reconstruct(model, original, blocks, batches, BlockConfig(steps=40))
    with torch.no_grad():
        after = (model(images) - original(images)).square().mean()
    assert after < before
    assert all(fit.after < fit.before for fit in fits)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())


def test_blocks_are_fitted_to_as_many_images_as_there_is_memory_for():
    original, all_images = small(), list(correlated(48, 3, 16).split(16))
    blocks, found = blocks_of(original, inner(original))[:1], []
    model = copy.deepcopy(original)
    regroup_layers(model, original, dict.fromkeys(inner(original), 4), all_images, Method("contiguous"))
    seen = {}
    with heard({"": original.get_submodule(blocks[0])}, after=lambda *run: seen.update(run=run[1:])):
        original(all_images[0])
    each = 4 * (seen["run"][0][0][0].numel() + seen["run"][1][0].numel())
    for memory, batches in ((24 * each, all_images), (1 << 30, [torch.cat(all_images)[:24]])):
        fitted = copy.deepcopy(model)
        (fit,) = reconstruct(fitted, original, blocks, batches, BlockConfig(steps=3, memory=memory))
        assert fit.images == 24
        found.append(fit.after)
    assert found[0] == pytest.approx(found[1], rel=1e-4)  # rounded otherwise in other batches


def test_a_fit_that_does_not_help_is_taken_back():
    original = small()
    model, batches = copy.deepcopy(original), [correlated(16, 3, 16)]
    state = copy.deepcopy(model.state_dict())
    blocks = blocks_of(original, inner(original))
    fits = reconstruct(model, original, blocks, batches, BlockConfig(steps=3, lr=1))
    assert all(fit.before == fit.after == 0 for fit in fits)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_blocks_that_take_several_tensors_are_left_and_say_so():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x, y):
            return self.a(x) + self.b(y)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x, x)

    model = Net()
    (fit,) = reconstruct(model, copy.deepcopy(model), ["pair"], [torch.randn(4, 4, 2, 2)])
    assert "one tensor" in fit.reason


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"stem.conv": 2}, "possible for stem.conv"),
        ({"stem": 2}, "dense convolution"),
        ({"nowhere": 2}, "nowhere"),
    ],
)
def test_what_cannot_be_is_said(groups, words):
    original = small()
    with pytest.raises(ParameterError, match=words):
        regroup_layers(copy.deepcopy(original), original, groups, [torch.randn(2, 3, 16, 16)])


def test_an_unknown_choice_is_an_error():
    with pytest.raises(UnknownNameError, match="gain"):
        Method("gian")


def test_damage_is_what_it_says():
    first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.LazyLinear(5)).double()
    batches = list(correlated(30, 3, 4).double().split(10))
    first(batches[0])
    second = copy.deepcopy(first)
    with torch.no_grad():
        second[0].bias += 0.5
        y, scores, others = (torch.cat([f(b) for b in batches]) for f in (first[0], first, second))
    expected = 4 * 0.25 / y.var((0, 2, 3), unbiased=False).sum()
    assert apart(second, first, ["0"], batches)["0"] == pytest.approx(float(expected))
    p, q = scores.softmax(1), others.softmax(1)
    assert divergence(second, first, batches) == pytest.approx(float((p * (p / q).log()).sum(1).mean()))
    assert divergence(second, shares(first, batches), batches) == divergence(second, first, batches)
    assert divergence(first, first, batches) == 0 == apart(first, first, ["0"], batches)["0"]


def test_strategies_stand_in_too():
    original = small()
    model, images = copy.deepcopy(original), [correlated(16, 3, 16)]
    names = inner(original)
    found = regroup_layers(model, original, {names[0]: 2, names[1]: "separable:multiplier=9"}, images)
    assert [layer.option for layer in found] == ["grouped:groups=2", "separable:multiplier=9"]
    assert found[1].partition is None and found[1].error < found[0].error  # nine taps are nine filters
