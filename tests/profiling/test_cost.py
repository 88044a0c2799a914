"""Costs against published figures, hand-computed ones, another counter, and where other counters fail."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.flop_counter import register_flop_formula

from regroup.ops.counting import count
from regroup.ops.layers import block_diagonal
from regroup.ops.order import ChannelOrder, ChannelShuffle
from regroup.profiling.cost import LayerCost, cost

C, SIZE, GROUPS = 16, 10, 8
MACS = C * C * 9 * SIZE * SIZE  # of a dense 3x3 convolution, padding 1


def image(channels=C, size=SIZE, **options):
    return torch.empty(1, channels, size, size, **options)


def conv(groups=GROUPS, **options):
    return nn.Conv2d(C, C, 3, padding=1, groups=groups, bias=False, **options)


PUBLISHED = {  # torchvision's own counts of multiply-adds, in units of 1e9, to three decimals
    "resnet50": 4.089,
    "resnext50_32x4d": 4.230,
    "mobilenet_v2": 0.301,
    "shufflenet_v2_x1_0": 0.145,
    "squeezenet1_1": 0.349,
    "densenet121": 2.834,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_whole_networks_have_their_published_macs_and_parameters(name):
    model = torchvision.models.get_model(name, weights=None)
    total = cost(model, image(3, 224)).total
    assert round(total.macs / 1e9, 3) == PUBLISHED[name]
    assert total.parameters == torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "regnet_y_400mf"])
def test_macs_and_activations_equal_those_of_fvcore(name):
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.zeros(1, 3, 64, 64)
    theirs = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).by_module()
    ours = cost(model, x)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert ours.of(name).macs == theirs[name], name
    activations = ActivationCountAnalysis(model, x).unsupported_ops_warnings(False)
    assert ours.total.activations == activations.total()


def test_the_whole_and_the_parts_agree():
    model = torchvision.models.get_model("squeezenet1_1", weights=None)
    costs = cost(model, image(3, 64))
    assert costs.of("") == costs.total
    assert sum(costs.of(name).macs for name, _ in model.named_children()) == costs.total.macs
    assert costs.total.macs == count(model, (64, 64)).macs


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2]),
    st.sampled_from([nn.Conv2d, nn.ConvTranspose2d]),
    st.integers(1, 3),
)
def test_a_training_step_takes_three_times_the_macs_at_any_number_of_groups(groups, stride, kind, batch):
    layer = kind(C, 2 * C, 3, stride=stride, groups=groups)
    x = torch.empty(batch, C, SIZE, SIZE, requires_grad=True)
    forward = cost(layer, x).total
    pixels = SIZE**2 if kind is nn.ConvTranspose2d else forward.activations // (batch * 2 * C)
    assert forward.macs == batch * pixels * layer.weight.numel()
    assert forward.dense_macs == groups * forward.macs
    step = cost(layer, x, training=True).total
    assert (step.macs, step.dense_macs) == (3 * forward.macs, 3 * forward.dense_macs)


def test_the_backward_pass_is_counted_where_its_forward_pass_was():
    model = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None)
    x = torch.empty(2, 3, 32, 32, requires_grad=True)
    forward, step = cost(model, x), cost(model, x, training=True)
    for name, _ in model.named_modules():
        assert step.layers[name].macs == 3 * forward.layers[name].macs, name


def test_no_gradient_of_the_image_is_counted_when_none_is_asked_for():
    assert cost(conv(), image(), training=True).total.macs == 2 * MACS // GROUPS


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C, C // GROUPS, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1, groups=GROUPS)


class Reordered(nn.Conv2d):
    def forward(self, x):
        order = torch.arange(C).flip(0)
        return F.conv2d(x.index_select(1, order), self.weight, padding=1, groups=self.groups)


def test_functional_calls_inside_a_module_count():
    inside = nn.Sequential(nn.Identity(), Functional())
    costs = cost(inside, image())
    assert costs.layers["1"].macs == MACS // GROUPS
    assert costs.layers["1"].dense_macs == MACS


def test_a_subclass_with_its_own_forward_counts_and_so_does_its_gather():
    layer = Reordered(C, C, 3, padding=1, groups=GROUPS, bias=False)
    total = cost(layer, image()).total
    assert total.macs == MACS // GROUPS
    assert total.bytes_rearranged >= 2 * 4 * C * SIZE**2 + 8 * C


def test_a_module_called_twice_counts_twice_and_has_its_parameters_once():
    layer = conv()
    total = cost(nn.Sequential(layer, layer), image()).total
    assert total.macs == 2 * MACS // GROUPS
    assert total.parameters == layer.weight.numel()


def test_tied_weights_are_counted_once():
    first, second = conv(), conv()
    second.weight = first.weight
    assert cost(nn.Sequential(first, second), image()).total.parameters == first.weight.numel()


@torch.library.custom_op("regroup_test::grouped", mutates_args=())
def grouped(x: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    return F.conv2d(x, weight, padding=1, groups=groups)


@grouped.register_fake
def _(x, weight, groups):
    return x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])


@torch.library.custom_op("regroup_test::unknown", mutates_args=())
def unknown(x: torch.Tensor) -> torch.Tensor:
    return x + 1


class Custom(Functional):
    def forward(self, x):
        return torch.ops.regroup_test.grouped(x, self.weight, GROUPS)


class Unknown(nn.Module):
    def forward(self, x):
        return torch.ops.regroup_test.unknown(x)


def test_a_custom_operator_counts_once_its_formula_is_registered():
    assert cost(Custom(), image()).uncounted == ("regroup_test.grouped",)

    @register_flop_formula(torch.ops.regroup_test.grouped)
    def formula(x_shape, weight_shape, groups, *args, out_shape=None, **kwargs):
        return 2 * weight_shape[1] * 9 * torch.Size(out_shape).numel()

    costs = cost(Custom(), image())
    assert costs.uncounted == ()
    assert (costs.total.macs, costs.total.dense_macs) == (MACS // GROUPS, MACS)


def test_a_custom_operator_that_cannot_run_on_shapes_is_run_for_real_and_named():
    assert cost(Unknown(), torch.zeros(1, 2)).uncounted == ("regroup_test.unknown",)


class Masked(nn.Conv2d):
    def __init__(self):
        super().__init__(C, C, 3, padding=1, bias=False)
        self.register_buffer("mask", block_diagonal(torch.ones(C, C // GROUPS, 1, 1), GROUPS))

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, padding=1)

    def ideal_macs(self, executed):
        return round(executed * float(self.mask.mean()))


def test_a_masked_layer_executes_the_dense_macs_and_says_what_it_needs():
    total = cost(nn.Sequential(Masked(), nn.ReLU()), image()).total
    assert (total.macs, total.ideal_macs, total.dense_macs) == (MACS, MACS // GROUPS, MACS)


def test_masks_of_pytorchs_pruning_are_understood():
    layer = conv(groups=1)
    prune.random_unstructured(layer, "weight", amount=0.75)
    total = cost(layer, image()).total
    assert (total.macs, total.ideal_macs) == (MACS, MACS // 4)


class KeepsSome(nn.Conv2d):
    """Multiply only the channels that hold something, which no shape can tell."""

    def forward(self, x):
        kept = x.flatten(2).any(2)[0].nonzero()[:, 0]
        return F.conv2d(x[:, kept], self.weight[:, kept], padding=1)

    def dense_macs(self, executed):
        return MACS


def test_a_layer_that_gathers_by_value_is_run_for_real():
    x = torch.zeros(1, C, SIZE, SIZE)
    x[:, :4] = 1
    total = cost(KeepsSome(C, C, 3, padding=1, bias=False), x).total
    assert (total.macs, total.dense_macs) == (MACS // 4, MACS)


PLANE = 4 * SIZE**2  # bytes of one channel


class Concat(nn.Module):
    def forward(self, x):
        return torch.cat([x, x[:, :2]], 1)


class Expanded(nn.Module):
    def forward(self, x):
        return x * torch.ones(1, device=x.device).expand(C, 1, 1)


@pytest.mark.parametrize(
    ("module", "read", "written", "rearranged"),
    [
        (nn.ReLU(), C * PLANE, C * PLANE, 0),
        (nn.ReLU(inplace=True), C * PLANE, C * PLANE, 0),
        (nn.Identity(), 0, 0, 0),
        (nn.Flatten(), 0, 0, 0),
        (nn.AdaptiveAvgPool2d(1), C * PLANE, C * 4, 0),
        (ChannelOrder(range(4)), 4 * PLANE + 4 * 8, 4 * PLANE, 8 * PLANE + 4 * 8),
        (ChannelShuffle(4), C * PLANE, C * PLANE, 2 * C * PLANE),
        (nn.ChannelShuffle(4), C * PLANE, C * PLANE, 2 * C * PLANE),
        (Concat(), (C + 2) * PLANE, (C + 2) * PLANE, 2 * (C + 2) * PLANE),
        (Expanded(), C * PLANE + 4, C * PLANE + 4, 0),
        (conv(), C * PLANE + 4 * C * 2 * 9, C * PLANE, 0),
        (nn.BatchNorm2d(C), C * PLANE + 4 * 4 * C, C * PLANE, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_bytes_are_those_computed_by_hand(module, read, written, rearranged):
    total = cost(module, image()).total
    assert (total.bytes_read, total.bytes_written, total.bytes_rearranged) == (read, written, rearranged)


def test_half_precision_moves_half_the_bytes():
    layer = conv()
    full, half = cost(layer, image()).total, cost(layer.bfloat16(), image(dtype=torch.bfloat16)).total
    assert 2 * half.bytes == full.bytes
    assert half.macs == full.macs


def test_intensity_is_flops_and_not_macs_for_each_byte():
    assert LayerCost(macs=100, bytes_read=30, bytes_written=20).intensity == 4.0


@pytest.mark.parametrize("training", [False, True])
def test_counting_leaves_the_model_as_it_was(training):
    model = nn.Sequential(conv(), nn.BatchNorm2d(C), nn.Dropout())
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost(model, torch.randn(2, C, SIZE, SIZE), training=training)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [m.training for m in model] == [True, True, False]
    assert all(p.grad is None for p in model.parameters())
    assert not model[0]._forward_hooks


def test_a_model_that_cannot_take_the_input_says_so_in_its_own_words():
    with pytest.raises(RuntimeError, match="channels"):
        cost(conv(), image(C + 1))


def test_a_model_whose_layer_has_two_names_stays_as_it_was():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 3, 1)
            self.b = self.a
            self.tied = nn.Conv2d(3, 3, 1)
            self.tied.weight = self.a.weight
            self.norm = nn.BatchNorm2d(3)
            self.other = self.norm

        def forward(self, x):
            return self.other(self.tied(self.norm(self.b(self.a(x)))))

    model, x = Twice(), torch.rand(2, 3, 4, 4)

    def tensors():
        every = {"remove_duplicate": False}
        return [*model.named_parameters(**every), *model.named_buffers(**every)]

    before = {name: (tensor, tensor.detach().clone()) for name, tensor in tensors()}
    for training in (False, True):
        found = cost(model, x, training=training)
        forward = 3 * 2 * 9 * 16  # the image needs no gradient
        assert found.total.macs == (3 * forward - forward // 3 if training else forward)
        for name, tensor in tensors():
            assert tensor is before[name][0] and torch.equal(tensor, before[name][1]), name
        assert all(tensor.grad is None for tensor in model.parameters())
