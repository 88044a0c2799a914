"""Reach by following every operator, against the support of the Jacobian."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from regroup.errors import ConfigError
from regroup.ops import reach as layers
from regroup.ops.layers import block_diagonal
from regroup.ops.order import ChannelOrder
from regroup.ops.reach import measured_reach
from regroup.profiling.reach import Flow, depth, flow, mixing, reach, smallest

SIZE = (6, 5)


class Masked(nn.Conv2d):
    def __init__(self, channels, groups):
        super().__init__(channels, channels, 3, padding=1)
        self.register_buffer("mask", block_diagonal(torch.ones(channels, channels // groups, 1, 1), groups))

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Gated(Residual):
    def forward(self, x):
        return x * self.inner(x.mean((2, 3), keepdim=True))


class Grown(Residual):
    """DenseNet's concatenation, back to the width by leaving channels out."""

    def forward(self, x):
        return torch.cat([x, self.inner(x)], 1)[:, x.shape[1] // 2 :][:, : x.shape[1]]


class Split(Residual):
    """ShuffleNet V2: half of the channels go by, then two halves are interleaved."""

    def forward(self, x):
        kept, worked = x.chunk(2, 1)
        both = torch.cat([kept, worked + self.inner(x).chunk(2, 1)[0]], 1)
        return F.channel_shuffle(both, 2)


class Written(Residual):
    """Half of the channels are written in place into a tensor of zeros."""

    def forward(self, x):
        out = torch.zeros_like(x)
        out[:, ::2] = self.inner(x)[:, 1::2]
        out.add_(x)
        return out.relu_()


class Blurred(nn.Module):
    def forward(self, x):
        return F.interpolate(F.max_pool2d(F.pad(x, (1, 0, 1, 0)), 2), size=SIZE, mode="nearest")


@st.composite
def layer(draw, channels, deep=1):
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    wrapped = [Residual, Gated, Grown, Split, Written] if deep else []
    plain = ["conv", "transposed", "masked", "order", "shuffle", "norm", "response", "blur"]
    kind = draw(st.sampled_from([*plain, *wrapped]))
    if kind == "conv":
        return nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
    if kind == "transposed":
        return nn.ConvTranspose2d(channels, channels, 3, padding=1, groups=groups)
    if kind == "masked":
        return Masked(channels, groups)
    if kind == "order":
        return ChannelOrder(
            draw(st.lists(st.integers(0, channels - 1), min_size=channels, max_size=channels))
        )
    if kind == "shuffle":
        return nn.ChannelShuffle(groups)
    if kind == "norm":
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    if kind == "response":
        return nn.LocalResponseNorm(3)
    if kind == "blur":
        return Blurred()
    return kind(nn.Sequential(*draw(st.lists(layer(channels, deep - 1), min_size=1, max_size=2))))


@st.composite
def network(draw):
    channels = draw(st.sampled_from([2, 4, 6, 8]))
    return channels, nn.Sequential(*draw(st.lists(layer(channels), min_size=1, max_size=5)))


@settings(max_examples=80, deadline=None)
@given(network())
def test_reach_is_the_support_of_the_jacobian_in_random_networks(case):
    channels, model = case
    found = reach(model, torch.rand(1, channels, *SIZE))
    assert found.assumed == ()
    assert torch.equal(found.matrix, measured_reach(model, channels, SIZE))


@settings(max_examples=30, deadline=None)
@given(network(), st.data())
def test_reach_of_parts_composes_to_at_least_the_whole(case, data):
    """Channel by channel the parts may connect pixels that no single way does; never less."""
    channels, model = case
    x = torch.rand(1, channels, *SIZE)
    cut = data.draw(st.integers(0, len(model) - 1))
    first = reach(model, x, end=str(cut)).matrix
    assert torch.equal(first, measured_reach(model[: cut + 1], channels, SIZE))
    if cut + 1 < len(model):
        rest = reach(model, x, start=str(cut + 1)).matrix
        assert (layers.through(first, rest) | ~reach(model, x).matrix).all()


@settings(max_examples=30, deadline=None)
@given(network())
def test_flow_is_positive_where_there_is_reach_and_adds_up_to_at_most_one(case):
    channels, model = case
    x = torch.rand(1, channels, *SIZE)
    shares = flow(model, x).matrix
    assert torch.equal(shares > 0, reach(model, x).matrix)
    assert (shares.sum(1) <= 1 + 1e-5).all()


def test_a_classifier_reaches_through_pooling_flattening_and_a_linear_layer():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1)
    )
    assert reach(model, torch.rand(2, 4, 3, 3)).matrix.all()
    assert torch.equal(reach(model, torch.rand(1, 4, 3, 3), end="1").matrix, layers.grouped(4, 4, 2))


def test_group_norm_joins_the_channels_of_a_group():
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.GroupNorm(2, 4))
    assert torch.equal(reach(model, torch.rand(1, 4, 3, 3)).matrix, layers.grouped(4, 4, 2))


def test_layer_norm_joins_what_it_normalises():
    class OverChannels(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    x = torch.rand(1, 4, 3, 2)
    assert reach(OverChannels(4), x).matrix.all()
    assert torch.equal(reach(nn.LayerNorm([3, 2]), x).matrix, torch.eye(4, dtype=torch.bool))


def test_batch_statistics_join_no_channels():
    model = nn.InstanceNorm2d(4)
    assert torch.equal(reach(model, torch.rand(1, 4, 3, 3)).matrix, torch.eye(4, dtype=torch.bool))


def test_attention_over_tokens_joins_all_channels_of_a_head_only():
    class Attention(nn.Module):
        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2).unflatten(2, (2, -1)).transpose(1, 2)
            out = F.scaled_dot_product_attention(tokens, tokens, tokens)
            return out.transpose(1, 2).flatten(2).transpose(1, 2).reshape_as(x)

    assert torch.equal(reach(Attention(), torch.rand(1, 4, 2, 2)).matrix, layers.grouped(4, 4, 2))


@torch.no_grad()
def test_a_transformer_block_has_a_rule_for_each_operator():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True)

        def forward(self, x):
            return self.layer(x.transpose(1, 2)).transpose(1, 2)

    found = reach(Tokens(), torch.rand(1, 4, 5))
    assert found.matrix.all()
    assert found.assumed == ()


def test_pruned_weights_let_nothing_pass():
    model = nn.Conv2d(4, 4, 1)
    prune.custom_from_mask(model, "weight", torch.eye(4)[:, :, None, None])
    assert torch.equal(reach(model, torch.rand(1, 4, 2, 2)).matrix, torch.eye(4, dtype=torch.bool))
    prune.remove(model, "weight")
    assert torch.equal(reach(model, torch.rand(1, 4, 2, 2)).matrix, torch.eye(4, dtype=torch.bool))


def test_weights_that_start_at_zero_let_everything_pass():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[1].weight)
    assert reach(model, torch.rand(1, 4, 2, 2)).matrix.all()


class Unruled(nn.Module):
    def forward(self, x):
        return torch.linalg.qr(x)[0]


def test_an_operator_without_a_rule_is_taken_to_mix_everything_and_named():
    found = reach(Unruled(), torch.rand(1, 3, 2, 2))
    assert found.matrix.all()
    assert found.assumed == ("aten.linalg_qr",)


class Pair(nn.Module):
    """Two tensors in, two tensors out, like an octave convolution; the second leaves as it came."""

    def __init__(self):
        super().__init__()
        self.high, self.low = nn.Conv2d(2, 2, 1), nn.Conv2d(1, 2, 1)

    def forward(self, both):
        high, low = both
        return self.high(high) + F.interpolate(self.low(low), scale_factor=2), low * 2


class TakesPairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        high, low = self.pair((x[:, :2], F.avg_pool2d(x[:, 2:], 2)))
        return high.mean((2, 3)) + low.mean((2, 3))


def test_channels_of_pairs_are_counted_on():
    found = reach(TakesPairs(), torch.rand(1, 3, 4, 4), start="pair", end="pair")
    assert found.matrix.int().tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 1]]


def test_the_smallest_image_is_one_that_the_model_takes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(80))
    assert [t.shape for t in smallest(model, torch.rand(2, 3, 224, 200))] == [(1, 3, 96, 96)]
    assert [t.shape for t in smallest(model, torch.rand(2, 3, 90, 90))] == [(1, 3, 90, 90)]


def test_more_sources_than_fit_at_a_time_make_the_same_matrix(monkeypatch):
    model = nn.Sequential(nn.Conv2d(12, 12, 3, groups=3), nn.ChannelShuffle(2), nn.Conv2d(12, 6, 1, groups=2))
    x = torch.rand(1, 12, 5, 5)
    whole = reach(model, x).matrix
    monkeypatch.setattr("regroup.profiling.reach.CHUNK", 5)
    assert torch.equal(reach(model, x).matrix, whole)


def test_grouped_layers_alone_never_mix_and_a_shuffle_between_makes_them():
    grouped = [nn.Conv2d(9, 9, 1, groups=3) for _ in range(3)]
    x = torch.rand(1, 9, 2, 2)
    apart = mixing(nn.Sequential(*grouped), x)
    assert apart.depth is None
    assert apart.fill_by_depth() == [pytest.approx(1 / 3)] * 3
    shuffled = nn.Sequential(grouped[0], nn.ChannelShuffle(3), grouped[1], nn.ChannelShuffle(3), grouped[2])
    assert mixing(shuffled, x).depth == 2


@settings(max_examples=30, deadline=None)
@given(network())
def test_mixing_from_all_grouped_convolutions_at_once_is_mixing_from_each(case):
    channels, model = case
    x = torch.rand(1, channels, *SIZE)
    grouped = [
        name for name, m in model.named_modules() if getattr(m, "groups", 1) > 1 and hasattr(m, "weight")
    ]
    if grouped:
        apart = [mixing(model, x, start=name) for name in grouped]
        assert mixing(model, x) == max(apart, key=lambda m: m.depth or 0)


def test_channels_that_influence_the_same_are_followed_as_one_and_counted_each():
    """Behind the first layer two groups are left of six channels; around the second a shortcut leads."""
    model = nn.Sequential(
        nn.Conv2d(6, 8, 1, groups=2),
        nn.ReLU(),
        Residual(nn.Conv2d(8, 8, 1, groups=4)),
        nn.BatchNorm2d(8),
        nn.ChannelShuffle(2),
        nn.Conv2d(8, 8, 3, groups=2),
    )
    x = torch.rand(1, 6, 8, 8)
    found = mixing(model, x, start="0")
    assert [(step.layer, step.fill) for step in found.steps] == [("0", 0.5), ("2.inner", 0.5), ("5", 1.0)]
    for start in ("0", "2"):
        following = model[int(start) :]
        channels = 6 if start == "0" else 8
        assert torch.equal(reach(model, x, start=start).matrix, measured_reach(following, channels, (8, 8)))


def test_mixing_depth_of_networks_follows_from_their_blocks():
    expected = {
        "resnet18": 1,  # dense
        "resnext50_32x4d": 2,  # grouped, then pointwise
        "mobilenet_v2": 2,  # depthwise, then pointwise
    }
    x = torch.rand(1, 3, 32, 32)
    for name, steps in expected.items():
        assert mixing(torchvision.models.get_model(name, weights=None), x).depth == steps


def test_networks_are_as_deep_as_they_are_called():
    for name, number in {"resnet50": 50, "vgg16": 16, "alexnet": 8, "densenet121": 121}.items():
        model = torchvision.models.get_model(name, weights=None)
        assert depth(model, torch.rand(1, 3, 64, 64)) == number, name


def test_the_longest_way_counts_as_depth():
    model = nn.Sequential(Residual(nn.Conv2d(2, 2, 1, groups=2)), nn.Conv2d(2, 2, 1))
    steps = mixing(model, torch.rand(1, 2, 2, 2), start="").steps
    assert [(s.layer, s.depth, s.fill) for s in steps] == [("0.inner", 1, 0.5), ("1", 2, 1.0)]


def test_flow_divides_by_the_weights():
    model = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[[[3.0]], [[-1.0]]]]))
    assert flow(model, torch.rand(1, 2, 2, 2)).matrix.tolist() == [[0.75, 0.25]]


def test_flow_between_groups_tells_own_from_other():
    weights = torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 2 + [[0.1, 0.1, 0.4, 0.4]] * 2)
    found = Flow("", "", weights)
    assert found.between_groups(2).tolist() == [[1.0, 0.0], [pytest.approx(0.2), pytest.approx(0.8)]]
    assert found.crossing(2) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="divisor of the 4 channels"):
        found.between_groups(3)


@pytest.mark.parametrize("part", [{"start": "nothing"}, {"end": "nothing"}])
def test_a_module_that_is_not_there_is_an_error(part):
    with pytest.raises(ConfigError, match="'nothing': must be the name of a module"):
        reach(nn.Conv2d(2, 2, 1), torch.rand(1, 2, 2, 2), **part)


def test_an_end_before_the_start_is_an_error():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
    with pytest.raises(ConfigError, match="what enters 1 reaches"):
        reach(model, torch.rand(1, 2, 2, 2), start="1", end="0")
