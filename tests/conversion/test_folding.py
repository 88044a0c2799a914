"""Channel orders folded into weights: the function stays bit-equal on integers, and what can be folded is."""

import copy
import itertools
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import regroup
from regroup.conversion.folding import fold_orders
from regroup.ops.order import ChannelOrder, ChannelShuffle
from tests.conversion.graphs import KINDS, image, nets, whole_numbers

ORDERED = [*KINDS, *["order"] * 6, *["shuffle"] * 3, *["grouped"] * 4, *["select"] * 2]


def perm(size, seed):
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def checked(model, x, folds=None):
    """Fold, and require the same results bit for bit and that what is said was done."""
    whole_numbers(model)
    before, original = model(x), copy.deepcopy(model)
    result = fold_orders(model, x)
    assert torch.equal(model(x), before)
    for gather in result.folded:
        assert isinstance(model.get_submodule(gather.name), nn.Identity)
    for gather in result.left:
        assert gather.reason
        assert not isinstance(model.get_submodule(gather.name), nn.Identity)
    orders = {f"{g.name}.order" for g in result.folded}
    assert list(model.state_dict()) == [k for k in original.state_dict() if k not in orders]
    if folds is not None:
        assert len(result.folded) == folds, result
    return result


@settings(
    max_examples=int(os.environ.get("REGROUP_FUZZ", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(nets(ORDERED))
def test_random_networks_stay_equal(model):
    checked(model, image())


def conv(c, m, groups=1):
    return nn.Conv2d(c, m, 1, groups=groups)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_between_dense_layers_any_order_is_folded(seed):
    order = ChannelOrder(perm(8, seed), learned=True)
    checked(nn.Sequential(conv(3, 8), order, nn.BatchNorm2d(8, eps=0), conv(8, 2)), image(), folds=1)


@pytest.mark.parametrize(("before", "behind"), [(1, 4), (4, 1), (1, 2), (2, 1)])
def test_one_dense_side_is_enough(before, behind):
    checked(
        nn.Sequential(
            conv(3, 8), conv(8, 8, before), ChannelOrder(perm(8, 1)), conv(8, 8, behind), conv(8, 2)
        ),
        image(),
        folds=1,
    )


def test_two_grouped_layers_fold_what_stays_in_groups_or_moves_whole_ones():
    """Against all orders of six channels: foldable are those of which each group gets the channels of one."""
    folded = 0
    for order in itertools.islice(itertools.permutations(range(6)), 0, None, 7):
        pairs = {frozenset((order[i] // 2, order[i + 1] // 2)) for i in (0, 2, 4)}
        possible = all(len(p) == 1 for p in pairs)
        model = nn.Sequential(conv(3, 6), conv(6, 6, 3), ChannelOrder(list(order)), conv(6, 6, 3), conv(6, 2))
        checked(model, image(), folds=int(possible))
        folded += possible
    assert folded


def test_a_shuffle_between_groups_remains_and_says_what_it_moves():
    model = nn.Sequential(conv(3, 8), conv(8, 8, 2), ChannelShuffle(2), conv(8, 8, 2), conv(8, 2))
    (left,) = checked(model, image(), folds=0).left
    assert "several groups" in left.reason
    assert left.moved == 2 * image()[:, :1].numel() * 8 * 8  # read and written, eight bytes each


def test_orders_around_a_grouped_layer_of_a_residual_block_are_folded():
    class Block(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.before, self.conv = ChannelOrder(perm(8, seed)), conv(8, 8, 2)
            self.after, self.last = ChannelOrder(perm(8, seed + 1)), conv(8, 8)

        def forward(self, x):
            return x + self.last(torch.relu(self.after(self.conv(self.before(x)))))

    model = nn.Sequential(conv(3, 8), Block(1), conv(8, 2))
    checked(model, image(), folds=2)
    two = nn.Sequential(conv(3, 8), Block(1), Block(3), conv(8, 2))
    assert len(checked(two, image()).folded) >= 3  # the stream has one order only


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ([0, 1, 1, 2, 3, 4], "it takes 5 of 8 channels, 1 of them again"),
        ([5, 4, 3], "it takes 3 of 8 channels"),
    ],
)
def test_selections_are_left(order, reason):
    model = nn.Sequential(conv(3, 8), ChannelOrder(order), conv(len(order), 2))
    (left,) = checked(model, image(), folds=0).left
    assert left.reason == reason


def test_a_selection_of_what_cannot_move_is_left():
    """Of three channels of the image two are taken: as many as the order has."""
    model = nn.Sequential(ChannelOrder([1, 0]), conv(2, 4), conv(4, 2))
    assert checked(model, image(), folds=0).left[0].reason == "it takes 2 of 3 channels"


def test_orders_at_the_ends_and_those_used_twice_are_left():
    shared = ChannelOrder([1, 0, 3, 2])
    model = nn.Sequential(
        ChannelOrder([2, 1, 0]),
        conv(3, 4),
        shared,
        conv(4, 4),
        shared,
        conv(4, 4),
        ChannelOrder([1, 0, 3, 2]),
    )
    result = checked(model, image())
    assert [g.name for g in result.folded] == ["0", "6"]
    assert [g.reason for g in result.left] == ["it is called 2 times"]


def test_an_order_with_hooks_is_left():
    model = nn.Sequential(conv(3, 4), ChannelOrder([1, 0, 3, 2]), conv(4, 2))
    model[1].register_forward_hook(lambda *_: None)
    assert "hooks" in checked(model, image(), folds=0).left[0].reason


def test_a_network_without_orders_is_left_as_it_is():
    result = fold_orders(nn.Sequential(conv(3, 4)), image().float())
    assert result.folded == result.left == ()


@pytest.mark.parametrize("name", ["shufflenet_v1_g3_100", "igcv3_100"])
def test_networks_of_ours_stay_equal(name):
    """In double precision no more may change than single precision rounds away."""
    torch.manual_seed(0)
    model, x = regroup.create_model(name).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        single, double = model(x), model.double()(x.double())
        result = fold_orders(model, x.double())
        assert result.folded or result.left
        assert (model(x.double()) - double).abs().max() <= (single - double).abs().max()
