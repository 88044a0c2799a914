"""Moments are held against means and covariances of all that was seen at once."""

import pytest
import torch
from torch import nn

from regroup.conversion.statistics import Moments, collect, patches
from regroup.errors import ConfigError
from regroup.ops.bounds import unit_roundoff
from regroup.spec import ConvSpec
from tests.conversion.linear import all_pairs, correlated

EVERYWHERE = 10_000


FORMS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (3, 2), "padding": (0, 1)},
    {"kernel_size": 3, "dilation": 2, "padding": "same"},
    {"kernel_size": 3, "stride": (2, 1), "dilation": (1, 2)},
]


@pytest.mark.parametrize("form", FORMS)
def test_patches_times_weights_are_outputs(form):
    conv = nn.Conv2d(4, 6, **form).double()
    x = torch.randn(2, 4, 9, 8).double()
    y = conv(x)
    where = torch.cartesian_prod(*(torch.arange(n) for n in (2, *y.shape[2:])))
    rows = patches(x, ConvSpec.of(conv), where).flatten(1)
    found = rows @ conv.weight.flatten(1).t() + conv.bias
    expected = y.permute(0, 2, 3, 1).flatten(0, 2)
    magnitude = rows.abs() @ conv.weight.flatten(1).abs().t() + conv.bias.abs()
    assert ((found - expected).abs() <= 2 * 100 * unit_roundoff(torch.float64) * magnitude).all()


def test_moments_of_batches_are_those_of_everything_together():
    conv = nn.Conv2d(4, 6, 3, padding=1)
    images = correlated(10, 4, 7) + 100  # means are large beside what varies
    found = collect(nn.Sequential(conv), ["0"], images.split([3, 1, 6]), positions=EVERYWHERE)["0"]
    x, y = all_pairs(conv, images)
    assert found.count == len(x) == 10 * 49
    dx, dy = x - x.mean(0), y - y.mean(0)
    scale = 1e4 * len(x) * unit_roundoff(torch.float64)  # numbers around 100, squared, in float64 sums
    assert (found.input_mean - x.mean(0)).abs().max() <= scale
    assert (found.inputs - dx.t() @ dx / len(x)).abs().max() <= scale
    single = 100 * 36 * unit_roundoff(torch.float32)  # outputs were computed in float32
    assert (found.target_mean - y.mean(0)).abs().max() <= 10 * single
    assert (found.cross - dy.t() @ dx / len(x)).abs().max() <= 10 * single
    assert (found.targets - dy.square().mean(0)).abs().max() <= 10 * single


def test_places_are_drawn_once_each_and_alike_in_both_networks():
    first = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 4, 3))
    second = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 4, 3))
    second.load_state_dict(first.state_dict())
    images = list(torch.randn(6, 3, 10, 10).split(2))
    alone = collect(first, ["0", "2"], images, positions=5)
    beside = collect(first, ["0", "2"], images, positions=5, original=second)
    assert alone["2"].count == 30
    for name in ("0", "2"):
        for field in Moments.__dataclass_fields__:
            one, other = getattr(alone[name], field), getattr(beside[name], field)
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_a_layer_that_runs_twice_has_the_moments_of_both_runs():
    conv = nn.Conv2d(4, 4, 3, padding=1)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return self.conv(self.conv(x).relu())

    images = correlated(2, 4, 6)
    found = collect(Twice(), ["conv"], [images], positions=EVERYWHERE)["conv"]
    once, again = all_pairs(conv, images)[0], all_pairs(conv, conv(images).detach().relu())[0]
    rows = torch.cat([once, again])
    assert found.count == len(rows)
    assert torch.equal((found.input_mean - rows.mean(0)).abs() < 1e-5, torch.ones(36, dtype=torch.bool))


def test_modes_are_put_back_and_norms_stay_as_they_were():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.Dropout()).train()
    model[2].eval()
    before = model[0].running_mean.clone()
    collect(model, ["1"], [torch.randn(2, 3, 4, 4) + 1])
    assert [m.training for m in model] == [True, True, False]
    assert torch.equal(model[0].running_mean, before)
    assert not model[1]._forward_hooks


def test_no_images_are_an_error():
    with pytest.raises(ConfigError, match="one batch of images"):
        collect(nn.Sequential(nn.Conv2d(3, 4, 1)), ["0"], [])
