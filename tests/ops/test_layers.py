"""The small modules: convolutions that crop, explicit kernels, concatenation, resizing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.ops.layers import ACTIVATIONS, Concat, block_diagonal, conv, explicit, flat, norm_act, resize_to
from regroup.spec import ConvSpec


@pytest.mark.parametrize("padding", [(-1, -1), (-2, 1), (1, -2), (0, 0), (2, 3), ((2, -1), (0, 3))])
@pytest.mark.parametrize("groups", [1, 2])
def test_negative_and_one_sided_padding_is_that_of_a_padded_image(padding, groups):
    spec = ConvSpec(4, 6, 3, stride=(1, 2), padding=padding, dilation=(2, 1), bias=True)
    layer = conv(spec, groups)
    x = torch.randint(-3, 4, (2, 4, 11, 12)).float()
    for parameter in layer.parameters():
        parameter.data = torch.randint_like(parameter, -3, 4)
    weight, bias = layer.parameters()
    padded = F.pad(x, flat(list(zip(spec.before, spec.after, strict=True))))
    expected = F.conv2d(padded, weight, bias, spec.stride, 0, (2, 1), groups)
    assert torch.equal(layer(x), expected)
    assert torch.equal(explicit(layer, x), expected)
    assert tuple(layer(x).shape[2:]) == spec.output_size((11, 12))


@given(st.permutations(range(6)), st.permutations(range(8)), st.sampled_from([1, 2]))
@settings(max_examples=20, deadline=None)
def test_orders_around_a_layer_become_the_order_of_its_kernel(inputs, outputs, groups):
    layer = conv(ConvSpec(6, 8, 3, bias=True), groups)
    for parameter in layer.parameters():
        parameter.data = torch.randint_like(parameter, -3, 4)
    x = torch.randint(-3, 4, (1, 6, 4, 4)).float()
    around = explicit(layer, x, inputs=torch.tensor(inputs), outputs=torch.tensor(outputs))
    assert torch.equal(around, layer(x[:, inputs])[:, outputs])


def test_a_block_diagonal_kernel_is_zero_between_groups():
    weight = torch.ones(6, 2, 1, 1)
    assert torch.equal(block_diagonal(weight, 3)[:, :, 0, 0], torch.block_diag(*[torch.ones(2, 2)] * 3))


def test_groups_that_do_not_divide_are_refused_with_those_that_do():
    with pytest.raises(SpecError, match=r"groups=4: must be a divisor of .* use one of 1, 2, 3, 6"):
        conv(ConvSpec(12, 6, 3), 4)


def test_concat_puts_branches_side_by_side():
    x = torch.ones(1, 2, 3, 3)
    assert torch.equal(Concat([nn.Identity(), nn.Flatten(0, 0)])(x), torch.ones(1, 4, 3, 3))


def test_norm_and_activation_by_name():
    assert [type(m) for m in norm_act(4, True, "silu")] == [nn.BatchNorm2d, nn.SiLU]
    assert len(norm_act(4, False, "none")) == 0
    assert set(ACTIVATIONS) == {"relu", "relu6", "silu", "hardswish", "none"}


def test_resizing_is_nearest_for_exact_multiples_else_bilinear():
    x = torch.rand(1, 2, 3, 4)
    assert resize_to(x, [3, 4]) is x
    assert torch.equal(resize_to(x, [6, 8]), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    expected = F.interpolate(x, (7, 7), mode="bilinear", align_corners=False)
    assert torch.equal(resize_to(x, [7, 7]), expected)
