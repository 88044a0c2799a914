"""Each pass by itself: the graph gets smaller as promised, and computes what it did."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from torch import Tensor, nn

from regroup.engine.frontend.recognise import record
from regroup.engine.graph import Fused, Graph
from regroup.engine.operators.activation import Activate
from regroup.engine.operators.add import Add
from regroup.engine.operators.concat import Concat
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.linear import Linear
from regroup.engine.operators.pad import Pad
from regroup.engine.operators.scale_shift import ScaleShift
from regroup.engine.operators.select import Select
from regroup.engine.passes import LAST_PASSES, PASSES, optimise
from regroup.engine.passes.channel_orders import simplify_channel_orders
from regroup.engine.passes.concat import push_above_concat
from regroup.engine.passes.fuse import fuse_after, fuse_before
from regroup.engine.passes.linear import vectors_to_linear
from regroup.engine.passes.padding import fold_padding
from regroup.engine.passes.resize import fuse_resize_and_add
from regroup.engine.passes.scale_shift import fold_scale_shift
from tests.engine.models import BATCH, RandomNet, Shuffle, randomise
from tests.engine.test_lowering import PROGRAMS


class Run(nn.Module):
    """A function of an image and some layers."""

    def __init__(self, function, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)
        randomise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def recorded(model: nn.Module, x: Tensor) -> Graph:
    return record(model.eval(), [x], BATCH).graph


def after(run, model: nn.Module, channels: int = 8, size: int = 6) -> list[type]:
    """Return the kinds of nodes that `run` leaves, once it is sure that they compute the same."""
    x = torch.randn(2, channels, size, size, dtype=torch.float64)
    graph = recorded(model, x.float())
    (before,) = graph.evaluate([x])
    changed = run(graph)
    graph.remove_dead()
    (result,) = graph.evaluate([x])
    assert (result - before).abs().max() <= 1e-13 * before.abs().max()
    assert changed
    return [type(node.op) for node in graph.nodes]


def test_padding_goes_into_the_convolution():
    model = Run(lambda m, x: m.conv(F.pad(x, (0, 1, 2, 3))), conv=nn.Conv2d(8, 4, 3, padding=1))
    assert after(fold_padding, model) == [Conv]


def test_padding_before_a_maximum_stays():
    graph = recorded(Run(lambda m, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3)), torch.randn(1, 8, 6, 6))
    assert not fold_padding(graph)
    assert isinstance(graph.nodes[0].op, Pad)


def test_a_pointwise_convolution_of_a_vector_is_linear():
    model = Run(lambda m, x: m.fc(F.adaptive_avg_pool2d(x, 1)), fc=nn.Conv2d(8, 4, 1))
    assert after(vectors_to_linear, model)[-1] is Linear


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_normalisation_goes_into_the_convolution_before_it(groups):
    model = Run(
        lambda m, x: m.norm(m.conv(x)), conv=nn.Conv2d(8, 8, 3, groups=groups), norm=nn.BatchNorm2d(8)
    )
    assert after(fold_scale_shift, model) == [Conv]


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_normalisation_goes_into_the_unpadded_convolutions_after_it(groups):
    convs = {"a": nn.Conv2d(8, 8, 3, groups=groups), "b": nn.Conv2d(8, 16, 3, groups=groups, bias=False)}
    model = Run(lambda m, x: torch.cat([m.a(y := m.norm(x)), m.b(y)], 1), norm=nn.BatchNorm2d(8), **convs)
    assert after(fold_scale_shift, model) == [Conv, Conv, Concat]


def test_a_shift_does_not_go_into_a_padded_convolution():
    model = Run(lambda m, x: m.conv(m.norm(x)), norm=nn.BatchNorm2d(8), conv=nn.Conv2d(8, 4, 3, padding=1))
    assert not fold_scale_shift(recorded(model, torch.randn(1, 8, 6, 6)))


def test_normalisations_that_others_read_too_stay():
    model = Run(
        lambda m, x: m.norm(y := m.conv(x)) + y.relu(), conv=nn.Conv2d(8, 8, 1), norm=nn.BatchNorm2d(8)
    )
    assert not fold_scale_shift(recorded(model, torch.randn(1, 8, 6, 6)))


def test_channel_orders_in_a_row_are_one_and_those_that_undo_each_other_none():
    model = Run(lambda m, x: m.b(m.a(x).relu()) * 2, a=Shuffle(2), b=Shuffle(4))
    x = torch.randn(1, 8, 6, 6)
    graph = recorded(model, x)
    while simplify_channel_orders(graph):
        pass
    assert [type(n.op) for n in graph.nodes] == [Activate, ScaleShift]
    assert torch.equal(graph.evaluate([x])[0], model(x))


def test_a_channel_order_sinks_below_the_sum_that_its_convolution_can_take():
    model = Run(
        lambda m, x: m.shuffle(m.norm(m.conv(x))) + x,
        conv=nn.Conv2d(8, 8, 1),
        norm=nn.BatchNorm2d(8),
        shuffle=Shuffle(2),
    )
    kinds = after(lambda graph: (optimise(graph), True)[1], model)
    assert sorted(k.__name__ for k in kinds) == ["Fused", "Select", "Select"]


def test_a_slice_of_a_concatenation_reads_the_part():
    model = Run(lambda m, x: torch.cat([x.relu(), x.sigmoid()], 1)[:, 10:12])
    assert after(simplify_channel_orders, model) == [Activate, Select]


@pytest.mark.parametrize("work", [lambda m, y, x: m.norm(y), lambda m, y, x: y + x, lambda m, y, x: y.relu()])
def test_work_on_a_concatenation_of_convolutions_moves_into_them(work):
    model = Run(
        lambda m, x: work(m, torch.cat([m.a(x), m.b(x)], 1), x),
        a=nn.Conv2d(8, 6, 1),
        b=nn.Conv2d(8, 2, 3, padding=1),
        norm=nn.BatchNorm2d(8),
    )
    assert after(push_above_concat, model)[-1] is Concat


def test_work_on_a_concatenation_stays_where_a_part_is_read_elsewhere():
    model = Run(
        lambda m, x: torch.cat([y := m.a(x), m.b(y)], 1).relu(), a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1)
    )
    assert not push_above_concat(recorded(model, torch.randn(1, 8, 6, 6)))


def test_doubling_and_addition_are_one():
    model = Run(lambda m, x: x + F.interpolate(F.avg_pool2d(x, 2), scale_factor=2))
    x = torch.randn(1, 8, 6, 6)
    graph = recorded(model, x)
    assert fuse_resize_and_add(graph)
    assert graph.nodes[-1].op.scale == 2
    assert torch.equal(graph.evaluate([x])[0], model(x))


@pytest.mark.parametrize(
    ("work", "nodes"),
    [
        (lambda m, x: m.conv(x).relu(), 1),
        (lambda m, x: (m.conv(x) + x).relu(), 1),
        (lambda m, x: m.conv(x).relu() + x, 1),
        (lambda m, x: x + m.conv(x) * F.adaptive_avg_pool2d(x, 1), 2),
        (lambda m, x: (m.conv(x) + x + x.relu()).relu(), 2),  # one sum a step
        (lambda m, x: F.max_pool2d(x, 2).relu(), 1),
        (lambda m, x: (x * 2).relu() * x.sigmoid(), 2),
        (lambda m, x: m.conv(x).relu().sigmoid(), 2),  # one activation a step
    ],
)
def test_what_a_step_can_do_besides_is_fused_into_it(work, nodes):
    assert len(after(fuse_after, Run(work, conv=nn.Conv2d(8, 8, 1)))) == nodes


def test_preactivation_goes_into_a_pointwise_convolution_across_a_channel_order():
    model = Run(
        lambda m, x: m.conv(m.shuffle(m.norm(x).relu())),
        norm=nn.BatchNorm2d(8),
        shuffle=Shuffle(4),
        conv=nn.Conv2d(8, 4, 1, groups=2),
    )

    def both(graph: Graph) -> bool:
        fuse_after(graph)
        return fuse_before(graph)

    assert after(both, model) == [Select, Fused]


def test_preactivation_of_a_padded_convolution_is_a_step_of_its_own():
    model = Run(
        lambda m, x: m.conv(m.norm(x).relu()), norm=nn.BatchNorm2d(8), conv=nn.Conv2d(8, 4, 3, padding=1)
    )
    assert not fuse_before(recorded(model, torch.randn(1, 8, 6, 6)))


@pytest.mark.parametrize("run", [*PASSES, *LAST_PASSES], ids=lambda run: run.__name__)
@settings(max_examples=30, deadline=None)
@given(PROGRAMS)
def test_a_pass_leaves_random_networks_of_integers_as_they_are(run, program):
    model = RandomNet(program)
    x = torch.randint(-3, 4, (2, RandomNet.CHANNELS, 5, 6)).double()
    graph = recorded(model, x.float())
    (before,) = graph.evaluate([x])
    assume(before.abs().max() < 2**50)
    run(graph)
    graph.remove_dead()
    assert torch.equal(graph.evaluate([x])[0], before)


def test_the_residual_of_a_second_half_is_read_where_it_lies():
    model = Run(lambda m, x: torch.cat([x[:, :4], m.conv(x[:, 4:]) + x[:, 4:]], 1), conv=nn.Conv2d(4, 4, 1))
    kinds = after(lambda graph: (optimise(graph), True)[1], model)
    assert kinds.count(Fused) == 1
    assert Add not in kinds
