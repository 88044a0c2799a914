"""DSConv's quantiser, shifts and block floating point against their definitions, number by number."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from regroup.errors import StrategyError
from regroup.ops.shifted import ShiftedConv, ShiftedForm, block_floating_point, straight_through
from regroup.spec import ConvSpec


def defined(block, bits, clamp):
    """Quantise a list of numbers by the definition, in rational arithmetic, ties to even."""
    weights = [Fraction(float(w)) for w in block]
    extreme = max(weights, key=lambda w: (abs(w), w < 0))
    if extreme == 0:
        return [0] * len(block), 0.0
    scale = Fraction(-(2 ** (bits - 1))) / extreme
    integers = [round(scale * w) for w in weights]
    if clamp:
        integers = [min(q, 2 ** (bits - 1) - 1) for q in integers]
    shift = sum(w * q for w, q in zip(weights, integers, strict=True)) / sum(q * q for q in integers)
    return integers, float(shift)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=13),
    st.integers(2, 8),
    st.integers(1, 6),
    st.booleans(),
)
def test_the_quantiser_is_the_defined_one_block_by_block(numbers, bits, block, clamp):
    form = ShiftedForm(bits=bits, block=block, clamp=clamp)
    weight = torch.tensor(numbers, dtype=torch.float64).view(1, -1, 1, 1) / 8
    integers, shifts = form.quantise(weight)
    assert integers.dtype == (torch.int8 if clamp or bits < 8 else torch.int16)
    expected = [defined(part.flatten(), bits, clamp) for part in weight.split(block, 1)]
    assert integers.flatten().tolist() == [q for part, _ in expected for q in part]
    for found, (_, shift) in zip(shifts.flatten().tolist(), expected, strict=True):
        assert abs(found - shift) <= 2**-48 * abs(shift)


def test_the_extreme_weight_is_kept_exactly_where_it_is_alone():
    for extreme in (1.75, -1.75):
        integers, shifts = ShiftedForm(bits=4, block=3).quantise(
            torch.tensor([extreme, 0.0, 0.0]).view(1, 3, 1, 1)
        )
        assert integers.flatten().tolist() == [-8, 0, 0]
        assert shifts.item() * -8 == extreme


def test_a_weight_as_large_as_the_extreme_and_of_other_sign_goes_beyond_the_bits_unless_clamped():
    weight = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    assert ShiftedForm(clamp=False).quantise(weight)[0].flatten().tolist() == [-8, 8]
    assert ShiftedForm(clamp=True).quantise(weight)[0].flatten().tolist() == [-8, 7]
    assert ShiftedForm(bits=8, clamp=False).quantise(weight)[0].flatten().tolist() == [-128, 128]


def test_blocks_run_along_the_depth_and_each_tap_and_output_has_its_own():
    torch.manual_seed(0)
    weight, form = torch.randn(3, 10, 2, 3, dtype=torch.float64), ShiftedForm(bits=3, block=4)
    integers, shifts = form.quantise(weight)
    assert shifts.shape == (3, 3, 2, 3)
    again = form.dequantise(integers, shifts)
    for k, r, s in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(3)).tolist():
        for b in range(3):
            place = (k, slice(4 * b, 4 * b + 4), r, s)
            q, shift = defined(weight[place], 3, True)
            assert integers[place].tolist() == q
            assert torch.equal(again[place], shifts[k, b, r, s] * torch.tensor(q))
            assert abs(float(shifts[k, b, r, s]) - shift) <= 2**-48 * abs(shift)


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-30])
@pytest.mark.parametrize("fit", ["squares", "divergence"])
def test_blocks_of_zeros_and_of_next_to_nothing_stay_finite(value, fit):
    weight = torch.zeros(2, 5, 1, 1)
    weight[1, 3] = value
    integers, shifts = ShiftedForm(fit=fit, block=4).quantise(weight)
    assert shifts.isfinite().all()
    assert integers[0].any().item() is False
    assert integers[1, 3].item() == (-8 if value else 0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_divergence_is_least_where_its_slope_is_zero(bits):
    torch.manual_seed(1)
    weight = torch.randn(4, 11, 3, 1, dtype=torch.float64)
    form = ShiftedForm(bits=bits, block=8, fit="divergence")
    integers, shifts = form.quantise(weight)

    def divergence(shifts):
        parts = zip(weight.split(8, 1), form.dequantise(integers, shifts).split(8, 1), strict=True)
        return sum(F.kl_div(q.log_softmax(1), p.softmax(1), reduction="sum") for p, q in parts)

    best = divergence(shifts)
    for factor in (0.97, 1.03):
        assert divergence(shifts * factor) > best
    squares = ShiftedForm(bits=bits, block=8).quantise(weight)[1]
    assert best <= divergence(squares)


def test_shifts_by_least_squares_leave_a_residual_at_right_angles():
    weight = torch.randn(5, 12, 3, 3, dtype=torch.float64)
    form = ShiftedForm(bits=3, block=4)
    integers, shifts = form.quantise(weight)
    rest = weight - form.dequantise(integers, shifts)
    product = (rest * integers).unflatten(1, (3, 4)).sum(2).abs()
    assert (product <= 2**-45 * (weight * integers).abs().sum()).all()


def in_block_floating_point(values, mantissa, exponent):
    """Round a block of activations by the definition, one by one."""
    low, high = -(2 ** (exponent - 1)), 2 ** (exponent - 1) - 1
    logarithms = [math.frexp(abs(v))[1] - 1 if v else low for v in values]
    shared = max(min(max(e, low), high) for e in logarithms)
    step = 2.0 ** (shared - mantissa + 2)
    return [round(v / step) * step for v in values]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=9),
    st.integers(1, 4),
    st.integers(2, 8),
    st.integers(2, 6),
)
def test_block_floating_point_is_the_defined_one(values, block, mantissa, exponent):
    x = torch.tensor(values).view(1, -1, 1, 1)
    expected = [
        r
        for part in x.flatten().split(block)
        for r in in_block_floating_point(part.tolist(), mantissa, exponent)
    ]
    assert block_floating_point(x, block, mantissa, exponent).flatten().tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_steps_below_the_smallest_number_leave_numbers_as_they_are(dtype):
    x = torch.tensor([0.0, 2.0**-24, -0.0]).to(dtype).view(1, 3, 1, 1)
    assert torch.equal(block_floating_point(x, 3, 24, 8), x)
    assert torch.equal(block_floating_point(x * 0, 3, 24, 8), x * 0)


def test_pixels_images_and_groups_do_not_share_an_exponent():
    x = torch.randn(2, 6, 3, 4) * torch.logspace(-2, 2, 4)
    whole = ShiftedForm(mantissa=4, block=4).activations(x, groups=2)
    for n, g, r, s in torch.cartesian_prod(*(torch.arange(k) for k in (2, 2, 3, 4))).tolist():
        place = (n, slice(3 * g, 3 * g + 3), r, s)
        assert whole[place].tolist() == in_block_floating_point(x[place].tolist(), 4, 5)


def test_gradients_pass_the_rounding_as_if_it_were_not_there():
    x = torch.randn(3, requires_grad=True)
    y = straight_through(x, x.detach().round())
    assert torch.equal(y, x.round())
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [1, 2, 3]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_integers_make_an_integer_exact_convolution(groups):
    spec = ConvSpec(8, 12, 3, stride=2, padding=1, bias=True)
    layer = ShiftedConv(spec, ShiftedForm(bits=4, block=3, mantissa=6), groups)
    with torch.no_grad():
        layer.shifts.fill_(0.5)
        layer.bias.fill_(3)
    x = torch.randint(-8, 9, (2, 8, 7, 7)).float()  # powers of two times 6 bits hold them
    expected = F.conv2d(x.double(), layer.integers.double() / 2, layer.bias.double(), 2, 1, 1, groups)
    assert torch.equal(layer(x).double(), expected)


def test_integers_and_shifts_are_in_the_state_dict_and_integers_do_not_train():
    layer = ShiftedConv(ConvSpec(8, 4, 3), ShiftedForm(channels=True))
    state = layer.state_dict()
    assert state["integers"].dtype == torch.int8
    assert state["shifts"].shape == (4, 1, 3, 3)
    layer(torch.randn(1, 8, 5, 5)).sum().backward()
    assert {n for n, p in layer.named_parameters() if p.grad is not None} == {
        "shifts",
        "channel_scale",
        "channel_offset",
    }
    assert layer.double().integers.dtype == torch.int8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": 9}, "bits=9: must be an int within 2 ... 8"),
        ({"block": 0}, "block=0"),
        ({"mantissa": 1}, "mantissa=1"),
        ({"exponent": 9}, "exponent=9"),
        ({"fit": "best"}, "fit='best': must be one of squares, divergence"),
    ],
)
def test_wrong_numbers_are_named(wrong, message):
    with pytest.raises(StrategyError, match=message):
        ShiftedForm(**wrong)
