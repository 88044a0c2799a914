"""Layers that choose their outputs: definition, a fresh one's index, loading."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.ops.scattered import ScatteredGroupConv
from regroup.spec import ConvSpec


@pytest.mark.parametrize("bias", [False, True])
def test_the_layer_is_one_dense_convolution_with_a_sparse_kernel_where_norm_is_off(bias):
    spec, groups, kept = ConvSpec(4, 5, 3, stride=2, padding=1, bias=bias), 2, 3
    layer = ScatteredGroupConv(spec, groups, kept, norm=False, act="none")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape))
    layer.index.copy_(torch.tensor([4, 0, 1, 1, 2, 4]))  # both groups feed 1 and 4; none feeds 3
    dense = torch.zeros(5, 4, 3, 3)
    for group, outputs in enumerate(([4, 0, 1], [1, 2, 4])):
        for row, output in enumerate(outputs):
            dense[output, group::groups] = layer.conv.weight[group * kept + row]
    x = torch.randint(-8, 9, (2, 4, 7, 5)).float()
    assert torch.equal(layer(x), F.conv2d(x, dense, layer.bias, stride=2, padding=1))
    assert layer.conv.groups == 2


def test_batch_norm_and_activation_come_first():
    layer = ScatteredGroupConv(ConvSpec(4, 6, 1), 2, 3, act="hardswish").eval()
    plain = ScatteredGroupConv(ConvSpec(4, 6, 1), 2, 3, norm=False, act="none")
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("norm")})
    for tensor in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean, layer.norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(layer(x), plain(F.hardswish(layer.norm(x))))


def test_a_fresh_layer_feeds_every_output_once_if_it_can():
    assert ScatteredGroupConv(ConvSpec(4, 6, 1), 2, 3).index.tolist() == [0, 1, 2, 3, 4, 5]


def test_it_works_in_half_precision():
    layer = ScatteredGroupConv(ConvSpec(4, 6, 1, bias=True), 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 4, 3, 3)).dtype == torch.bfloat16


def test_an_index_that_points_outside_is_refused_when_it_is_loaded():
    layer = ScatteredGroupConv(ConvSpec(4, 6, 1), 2, 3)
    for outside in (-1, 6):
        wrong = copy.deepcopy(layer.state_dict())
        wrong["index"][2] = outside
        with pytest.raises(RuntimeError, match="index points outside the 6 channels"):
            layer.load_state_dict(wrong)


def test_what_cannot_be_is_refused():
    with pytest.raises(SpecError, match="kept=7: must be within 1"):
        ScatteredGroupConv(ConvSpec(4, 6, 1), 2, 7)
    with pytest.raises(SpecError, match="groups=3: must be a divisor"):
        ScatteredGroupConv(ConvSpec(4, 6, 1), 3, 2)
