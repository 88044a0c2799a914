"""Reach by formula against the support of the Jacobian."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regroup.errors import ParameterError
from regroup.ops import reach
from regroup.ops.order import ChannelOrder, shuffle


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_reach_of_a_grouped_layer_is_that_of_its_jacobian(groups, width_in, width_out):
    layer = nn.Conv2d(groups * width_in, groups * width_out, 3, groups=groups)
    measured = reach.measured_reach(layer, layer.in_channels, (4, 4))
    assert torch.equal(reach.grouped(layer.out_channels, layer.in_channels, groups), measured)


@given(st.lists(st.sampled_from((1, 2, 3, 6)), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_layers_in_a_row_compose(groups, seed):
    generator = torch.Generator().manual_seed(seed)
    layers, formulas = [], []
    for g in groups:
        order = torch.randperm(6, generator=generator)
        layers += [nn.Conv2d(6, 6, 1, groups=g), ChannelOrder(order)]
        formulas.append(reach.grouped(6, 6, g)[order])
    measured = reach.measured_reach(nn.Sequential(*layers), 6, (1, 1))
    assert torch.equal(reach.through(*formulas), measured)


def test_fill_tells_how_much_is_mixed():
    once = reach.grouped(9, 9, 3)
    assert reach.fill(once) == 1 / 3
    assert reach.fill(reach.through(once, once)) == 1 / 3
    assert reach.fill(reach.through(once[shuffle(9, 3)], once)) == 1
    assert reach.fill(reach.full(3, 5)) == 1


class Difference(nn.Module):
    """Two paths that would cancel, were their weights not made positive and different."""

    def __init__(self):
        super().__init__()
        self.plus, self.minus = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.minus.weight.data = -self.plus.weight.data

    def forward(self, x):
        return self.plus(x) + self.minus(x)


def test_paths_that_cancel_still_reach():
    assert reach.measured_reach(Difference(), 4, (2, 2)).all()


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.Hardsigmoid, nn.Hardswish])
def test_no_activation_hides_a_path_however_wide_and_deep_the_module(act):
    deep = [m for _ in range(12) for m in (nn.Conv2d(4, 4, 1, groups=2), nn.BatchNorm2d(4), act())]
    module = nn.Sequential(nn.Conv2d(4096, 4, 1, groups=2), act(), *deep)
    measured = reach.measured_reach(module, 4096, (1, 1))
    assert torch.equal(measured, reach.grouped(4, 4096, 2))


def test_measuring_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    reach.measured_reach(module, 3, (5, 5))
    assert module.training
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ParameterError, match="groups=3: must be a divisor of in_channels=4"):
        reach.grouped(6, 4, 3)
    with pytest.raises(ParameterError, match="groups=3: must be a divisor of out_channels=4"):
        reach.grouped(4, 6, 3)


def test_channels_that_no_group_names_are_connected_to_nothing():
    groups = [{"inputs": [0], "outputs": [1]}]
    assert reach.listed(groups, 3, 2).int().tolist() == [[0, 0], [1, 0], [0, 0]]
