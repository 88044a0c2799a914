"""ConvSpec: sizes and costs against torch, centred kernels, and clear refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from regroup.errors import SpecError
from regroup.ops.layers import flat
from regroup.spec import ConvSpec, Cost, chain_cost, divisors
from regroup.testing import conv_specs


@given(conv_specs(), st.tuples(*[st.integers(1, 12)] * 3))
@settings(max_examples=150, deadline=None)
def test_the_output_size_is_torchs_or_a_clear_error(spec, size):
    size, sides = size[: spec.dims], list(zip(spec.before, spec.after, strict=True))
    function, weight = (F.conv1d, F.conv2d, F.conv3d)[spec.dims - 1], torch.zeros(1, 1, *spec.kernel_size)

    def convolved():
        padded = F.pad(torch.zeros(1, 1, *size), flat(sides))
        return function(padded, weight, None, spec.stride, 0, spec.dilation)

    try:
        predicted = spec.output_size(size)
    except SpecError as error:
        assert error.parameter == "size"
        with pytest.raises(RuntimeError):
            convolved()
        return
    assert tuple(convolved().shape[2:]) == predicted


@given(conv_specs(), st.integers(1, 9), st.integers(20, 30))
@settings(max_examples=150, deadline=None)
def test_another_kernel_around_the_same_centre_keeps_the_output_size(spec, kernel, size):
    axes = zip(spec.kernel_size, spec.looks_back, strict=True)
    size = (size,) * spec.dims
    if any((kernel - k) % 2 and not looks_back for k, looks_back in axes):
        with pytest.raises(SpecError, match=r"kernel_size=.* must be (odd|even), like"):
            spec.with_kernel(kernel)
        return
    changed = spec.with_kernel(kernel)
    assert changed.kernel_size == (kernel,) * spec.dims
    assert changed.output_size(size) == spec.output_size(size)
    ahead = [[span - before for span, before in zip(s.span, s.before, strict=True)] for s in (spec, changed)]
    for looks_back, was, now in zip(spec.looks_back, *ahead, strict=True):
        assert not looks_back or now == was
    if not any(spec.looks_back):
        assert changed.with_kernel(spec.kernel_size) == spec


def test_of_reads_a_convolution_back():
    layer = nn.Conv2d(4, 8, (3, 5), (2, 1), (1, 2), (2, 1), groups=2)
    assert ConvSpec.of(layer) == ConvSpec(4, 8, (3, 5), (2, 1), (1, 2), (2, 1), bias=True)
    same = nn.Conv2d(4, 4, (3, 5), padding="same", dilation=(2, 1), bias=False)
    assert ConvSpec.of(same) == ConvSpec(4, 4, (3, 5), padding=(2, 2), dilation=(2, 1))
    assert ConvSpec.of(nn.Conv2d(4, 4, 4, padding="valid")).padding == (0, 0)
    assert ConvSpec.of(nn.Conv1d(4, 4, 4, padding="same")).padding == ((1, 2),)
    assert ConvSpec.of(nn.Conv3d(4, 8, (3, 1, 1), bias=False)) == ConvSpec(4, 8, (3, 1, 1))
    assert ConvSpec.of(nn.Linear(6, 5)) == ConvSpec(6, 5, 1, bias=True, dims=1)


def test_what_zeros_around_it_cannot_say_is_refused():
    with pytest.raises(SpecError, match="padding_mode='reflect': must be 'zeros'"):
        ConvSpec.of(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"in_channels": 0}, "in_channels=0: must be an int of at least 1"),
        ({"out_channels": 2.0}, "out_channels=2.0"),
        ({"in_channels": True}, "in_channels=True"),
        ({"kernel_size": 0}, "kernel_size=0"),
        ({"kernel_size": (3,) * 4}, r"kernel_size=\(3, 3, 3, 3\): must be an int, or one to three of them"),
        ({"kernel_size": 3, "stride": (1, 1), "padding": (1,)}, r"padding=\(1,\): must be .* pair, for 2"),
        ({"kernel_size": (3,), "dims": 2}, r"kernel_size=\(3,\): must be an int or a \(height, width\) pair"),
        ({"dims": 4}, "dims=4: must be 1, 2 or 3"),
        ({"padding": ((1, 2, 3),)}, "must be an int or a single one, each an int or"),
        ({"stride": (1, 0)}, "stride=0"),
        ({"padding": 0.5}, "padding=0.5: must be an int"),
        ({"dilation": -1}, "dilation=-1"),
        ({"padding": "same"}, "padding='same'"),
    ],
)
def test_numbers_that_make_no_convolution_are_named(fields, message):
    with pytest.raises(SpecError, match=message):
        ConvSpec(**{"in_channels": 1, "out_channels": 1, **fields})


def test_equal_specs_are_equal_however_they_were_written():
    assert ConvSpec(1, 2, 3, padding=[1, 1]) == ConvSpec(1, 2, (3, 3), padding=1)
    assert hash(ConvSpec(1, 2, 3)) == hash(ConvSpec(1, 2, (3, 3)))
    assert ConvSpec(1, 2, 3, dims=1) == ConvSpec(1, 2, [3], padding=[(0, 0)]) != ConvSpec(1, 2, 3)
    with pytest.raises(AttributeError):
        ConvSpec(1, 2).stride = 2


def test_costs_add_up_and_a_bias_costs_no_macs():
    assert sum([Cost(1, 2), Cost(3, 4)]) == Cost(4, 6)
    assert ConvSpec(4, 8, 3, padding=1, bias=True).cost((5, 5), groups=2) == Cost(152, 3600)
    chain = [(ConvSpec(4, 4, 3, stride=2), 4), (ConvSpec(4, 8, 1), 1)]
    assert chain_cost(chain, (9, 9)) == Cost(36 + 32, 16 * (36 + 32))


def test_it_reads_like_a_sentence():
    assert str(ConvSpec(64, 128, 3, 2, 1)) == "64 -> 128 channels, 3x3, stride 2, padding 1"
    assert str(ConvSpec(4, 4, (1, 3), 1, (0, 1), 2, True)).endswith("1x3, padding 0x1, dilation 2, bias")
    assert str(ConvSpec(4, 4, 31, padding=((30, 0),))).endswith("channels, kernel 31, padding 30+0")
    assert str(ConvSpec(4, 4, (3, 1, 1), padding=1)).endswith("3x1x1, padding 1")


@given(st.integers(1, 200), st.integers(1, 200))
def test_divisors_are_all_numbers_that_divide_both(a, b):
    assert divisors(a, b) == [g for g in range(1, max(a, b) + 1) if a % g == b % g == 0]
