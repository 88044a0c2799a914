"""Conversion of random networks: layers are grouped as was said, orders fold, and the original stays."""

import copy
import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from regroup.conversion.assessment import Scope, candidates
from regroup.conversion.elsewhere import read_elsewhere
from regroup.conversion.folding import fold_orders
from regroup.conversion.regrouping import Method, regroup_layers
from regroup.conversion.replace import convolutions_of, why_left
from tests.conversion.graphs import KINDS, Reads, image, nets, whole_numbers

CHOICES = ("contiguous", "random", "magnitude", "overlapping")


def wanted_of(model, groups, x):
    """Return the dense convolutions that can have so many groups, and that nothing else reads."""
    others = read_elsewhere(model, x)
    return {
        name: groups
        for name, conv in convolutions_of(model)
        if conv.groups == 1 and name not in others and not why_left(conv, lambda conv: "")
        if conv.in_channels % groups == conv.out_channels % groups == 0
    }


def masked(model, layers):
    """Return the network with dense convolutions whose weights are zero outside of the groups."""
    result = copy.deepcopy(model)
    for layer in layers:
        conv = result.get_submodule(layer.name)
        mask = torch.zeros_like(conv.weight)
        for inputs, outputs in layer.partition:
            mask[outputs[:, None], inputs] = 1
        with torch.no_grad():
            conv.weight.mul_(mask)
    return result


@settings(
    max_examples=int(os.environ.get("REGROUP_FUZZ", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(nets([*KINDS, "conv", "conv", "conv"], most=6), st.sampled_from(CHOICES), st.integers(0, 3))
def test_networks_are_those_with_masked_weights_before_and_after_folding(model, choice, seed):
    """Whole numbers, so that all sums are exact: bit for bit."""
    x, original = image(), whole_numbers(model)
    before, model = original(x), copy.deepcopy(original)
    wanted = wanted_of(model, 2, x)
    layers = regroup_layers(
        model, original, wanted, [x], Method(choice, repair=False, positions=8, seed=seed)
    )
    assert {layer.name for layer in layers} == set(wanted)
    expected = masked(original, layers)(x)
    assert torch.equal(model(x), expected)
    folding = fold_orders(model, x)
    assert torch.equal(model(x), expected)
    assert all(isinstance(model.get_submodule(g.name), nn.Identity) for g in folding.folded)
    assert all(g.reason for g in folding.left)
    assert torch.equal(original(x), before)


def test_of_groups_that_overlap_the_order_before_is_left_and_the_one_behind_folded():
    """What leaves a group stands in any order; what enters it is taken by several groups."""
    torch.manual_seed(0)
    model = whole_numbers(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)), most=9)
    original, x = copy.deepcopy(model), image()
    (layer,) = regroup_layers(
        model, original, {"1": 4}, [x], Method("overlapping", repair=False, positions=8)
    )
    expected, folding = masked(original, [layer])(x), fold_orders(model, x)
    assert torch.equal(model(x), expected)
    assert layer.partition is not None
    times = layer.partition.inputs.flatten().bincount(minlength=8)
    taken = f"it takes {int((times > 0).sum())} of 8 channels"
    for gather in folding.left:
        assert gather.name == "1.0"
        assert gather.reason.startswith(taken)
    assert bool(folding.left) == bool((times != 1).any())


def test_a_layer_whose_weight_is_read_by_name_is_no_candidate():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), Reads(16), nn.Conv2d(16, 16, 1)).eval()
    options, left = candidates(model, torch.zeros(1, 3, 4, 4), Scope(narrowest=2))
    assert left["1.conv"] == "1.conv.weight is read by 1, too"
    assert "2" in options
