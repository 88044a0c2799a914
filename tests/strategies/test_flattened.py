"""Flattened convolution against its rank-one formula and the parameter counts of the official layers."""

import pytest
import torch
from torch.nn import functional as F

from regroup.errors import StrategyError
from regroup.spec import ConvSpec
from regroup.strategies.flattened import Flattened

SPECS = [
    ConvSpec(6, 8, 3, padding=1),
    ConvSpec(6, 8, (5, 2), stride=(1, 2), padding=(2, 0)),
    ConvSpec(4, 7, (3, 5), stride=2, padding=(3, 1), dilation=(2, 1), bias=True),
    ConvSpec(5, 3, 3, padding=-1),
    ConvSpec(5, 3, 1, stride=3),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_one_stage_is_the_convolution_whose_kernel_is_an_outer_product(spec):
    module = Flattened(stages=1, bias=False).build(spec).double()
    lateral, vertical, horizontal = (next(layer.parameters()) for layer in module)
    kernel = torch.einsum("kc,kr,ks->kcrs", lateral[:, :, 0, 0], vertical[:, 0, :, 0], horizontal[:, 0, 0, :])
    bias = module[2].bias if spec.bias else None
    x = torch.randn(2, spec.in_channels, 15, 14, dtype=torch.float64)
    rows, columns = spec.padding
    padded = F.pad(x, (columns, columns, rows, rows))
    expected = F.conv2d(padded, kernel, bias, spec.stride, 0, spec.dilation)
    torch.testing.assert_close(module(x), expected)


def test_every_output_has_a_kernel_of_rank_one():
    module = Flattened(stages=1, bias=False).build(ConvSpec(4, 3, 5, padding=4)).double()
    delta = torch.zeros(4, 4, 5, 5, dtype=torch.float64)
    delta[range(4), range(4), 2, 2] = 1
    kernels = module(delta)[:, :, 2:7, 2:7].permute(1, 0, 2, 3)  # output, input, rows, columns
    for axis in (1, 2, 3):
        unfolded = kernels.movedim(axis, 1).flatten(2)
        assert torch.linalg.matrix_rank(unfolded).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("channels", "one", "two"),
    [((3, 96), 1_536, 12_000), ((96, 128), 13_952, 32_000), ((128, 256), 36_096, 104_960)],
)
def test_parameters_of_the_official_layers_with_their_biases(channels, one, two):
    spec = ConvSpec(*channels, 5, padding=2, bias=True)
    for stages, parameters in ((1, one), (2, two)):
        module = Flattened(stages=stages).build(spec)
        assert sum(p.numel() for p in module.parameters()) == parameters
        assert Flattened(stages=stages).cost(spec, (32, 32)).parameters == parameters


def test_without_biases_only_the_last_convolution_takes_that_of_the_spec():
    module = Flattened(bias=False).build(ConvSpec(4, 6, 3, padding=1, bias=True))
    assert [layer.bias is not None for layer in module] == [False] * 5 + [True]
    assert all(layer.bias is None for layer in Flattened(bias=False).build(ConvSpec(4, 6, 3, padding=1)))


def test_the_second_stage_keeps_the_size_and_needs_a_centre():
    stage = list(Flattened().build(ConvSpec(4, 6, (3, 5), stride=2, padding=0, dilation=2)))[3:]
    assert [layer.stride for layer in stage] == [(1, 1)] * 3
    assert [layer.padding for layer in stage] == [(0, 0), (2, 0), (0, 4)]
    with pytest.raises(StrategyError, match=r"stages=2: must be 1 for the even kernel"):
        Flattened().build(ConvSpec(4, 6, 2, stride=2))


def test_no_stages_are_refused():
    with pytest.raises(StrategyError, match="stages=0"):
        Flattened(stages=0)
