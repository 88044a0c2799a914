"""The grouped convolution: every backend against its definition, within the rounding bound or exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from regroup.errors import ParameterError, SpecError
from regroup.ops.bounds import rounding_bound, worst_ratio
from regroup.ops.conv import BACKENDS, Backend, Problem, backend, explain, grouped_conv2d
from regroup.ops.layers import block_diagonal
from regroup.spec import ConvSpec

from .problems import LAYOUTS, definition, lay_out, problems

OURS = ("torch", "reference")
quick = settings(max_examples=60, deadline=None, derandomize=True)


def tensors(spec, groups, images, size, integers=False, dtype=torch.float32):
    weight_shape = (spec.out_channels, spec.in_channels // groups, *spec.kernel_size)
    shapes = [(images, spec.in_channels, *size), weight_shape, (spec.out_channels,)]
    x, weight, bias = (
        torch.randint(-3, 4, shape).to(dtype) if integers else torch.randn(shape).to(dtype)
        for shape in shapes
    )
    return x, weight, bias if spec.bias else None


def run(name, x, weight, bias, spec, groups):
    with backend(name):
        return grouped_conv2d(
            x,
            weight,
            bias,
            stride=spec.stride,
            padding=spec.padding,
            dilation=spec.dilation,
            groups=groups,
        )


@pytest.mark.parametrize("name", OURS)
@given(problems(), st.sampled_from(LAYOUTS), st.integers(0, 2**20))
@quick
def test_float32_lies_within_the_rounding_bound(name, problem, layout, seed):
    spec, groups, *_ = problem
    torch.manual_seed(seed)
    x, weight, bias = tensors(*problem)
    exact = definition(x, weight, bias, spec, groups)
    magnitude = definition(x.abs(), weight.abs(), None if bias is None else bias.abs(), spec, groups)
    terms = weight[0].numel() + spec.bias
    result = run(name, lay_out(x, layout), weight, bias, spec, groups)
    assert worst_ratio(result, exact, rounding_bound(exact, magnitude, terms)) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(problems(bias=False), st.integers(0, 2**20))
@quick
def test_half_precision_with_a_float32_accumulator_lies_within_the_bound(dtype, problem, seed):
    spec, groups, *_ = problem
    torch.manual_seed(seed)
    x, weight, _ = tensors(*problem, dtype=dtype)
    exact = definition(x, weight, None, spec, groups)
    magnitude = definition(x.abs(), weight.abs(), None, spec, groups)
    bound = rounding_bound(exact, magnitude, weight[0].numel(), dtype)
    assert worst_ratio(run("torch", x, weight, None, spec, groups), exact, bound) <= 1


@pytest.mark.parametrize("name", OURS)
@given(problems(), st.sampled_from(LAYOUTS), st.integers(0, 2**20))
@quick
def test_integers_give_bit_equal_results_in_any_layout(name, problem, layout, seed):
    spec, groups, *_ = problem
    torch.manual_seed(seed)
    x, weight, bias = tensors(*problem, integers=True)
    result = run(name, lay_out(x, layout), weight, bias, spec, groups)
    assert torch.equal(result.double(), definition(x, weight, bias, spec, groups))


@pytest.mark.parametrize("name", OURS)
@given(problems(), st.integers(0, 2**20))
@quick
def test_gradients_lie_within_the_rounding_bound(name, problem, seed):
    spec, groups, images, _ = problem
    torch.manual_seed(seed)
    inputs = tensors(*problem)
    x, weight, bias = (None if t is None else t.requires_grad_() for t in inputs)
    y = run(name, x, weight, bias, spec, groups)
    upstream = torch.randn_like(y)
    wanted = [t for t in (x, weight) if t is not None]
    results = torch.autograd.grad(y, wanted, upstream)
    exact = gradients(x, weight, upstream, spec, groups)
    magnitude = gradients(x.abs(), weight.abs(), upstream.abs(), spec, groups)
    pixels = images * y[0, 0].numel()
    for result, right, size, terms in zip(
        results, exact, magnitude, (weight[:, 0].numel() // groups, pixels), strict=True
    ):
        assert worst_ratio(result, right, rounding_bound(right, size, terms)) <= 1


def gradients(x, weight, upstream, spec, groups):
    """Return the gradients of input and weight in float64, through the dense block-diagonal kernel."""
    x, weight = (t.detach().double().requires_grad_() for t in (x, weight))
    kernel = block_diagonal(weight, groups)
    y = F.conv2d(x, kernel, None, spec.stride, spec.padding, spec.dilation)
    return torch.autograd.grad(y, (x, weight), upstream.double())


@pytest.mark.parametrize("name", OURS)
@given(problems(), st.integers(0, 2**20))
@quick
def test_it_is_the_dense_convolution_with_a_block_diagonal_kernel(name, problem, seed):
    spec, groups, *_ = problem
    torch.manual_seed(seed)
    x, weight, bias = tensors(*problem, integers=True)
    dense = F.conv2d(x, block_diagonal(weight, groups), bias, spec.stride, spec.padding, spec.dilation)
    assert torch.equal(run(name, x, weight, bias, spec, groups), dense)


@pytest.mark.parametrize("name", OURS)
@given(problems(bias=False), st.integers(0, 2**20))
@quick
def test_laws_that_need_no_reference(name, problem, seed):
    """Check linearity, independence of images, exchange of groups, and the adjoint, all exactly."""
    spec, groups, *_ = problem
    torch.manual_seed(seed)
    x, weight, _ = tensors(*problem, integers=True)
    other = torch.randint_like(x, -3, 4)

    def conv(x, weight=weight):
        return run(name, x, weight, None, spec, groups)

    y = conv(x)
    assert torch.equal(conv(2 * x - other), 2 * y - conv(other))
    assert torch.equal(torch.cat([conv(image[None]) for image in x]), y)
    assert torch.equal(conv(x.flip(0)), y.flip(0))
    order = torch.randperm(groups)
    moved_x, moved_w = (
        t.unflatten(d, (groups, -1)).index_select(d, order).flatten(d, d + 1)
        for t, d in ((x, 1), (weight, 0))
    )
    moved_y = y.unflatten(1, (groups, -1))[:, order].flatten(1, 2)
    assert torch.equal(conv(moved_x, moved_w), moved_y)
    upstream = torch.randint_like(y, -3, 4)
    leaf = x.clone().requires_grad_()
    (adjoint,) = torch.autograd.grad(conv(leaf), leaf, upstream)
    assert torch.equal((adjoint * other).sum(), (upstream * conv(other)).sum())


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("groups", "width"), [(2, 3), (4, 1), (4, 8), (8, 4)])
def test_nan_in_one_group_stays_in_its_group(name, poison, groups, width):
    spec = ConvSpec(groups * width, groups * width, 3, padding=1)
    for sick in range(groups):
        x, weight, _ = tensors(spec, groups, 2, (6, 6))
        clean = run(name, x, weight, None, spec, groups).unflatten(1, (groups, width))
        x[:, sick * width : (sick + 1) * width] = poison
        y = run(name, x, weight, None, spec, groups).unflatten(1, (groups, width))
        healthy = [g for g in range(groups) if g != sick]
        assert torch.equal(y[:, healthy], clean[:, healthy])
        assert not y[:, sick].isfinite().any()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("groups", "stride", "padding", "dilation"), [(1, 1, 1, 1), (2, 2, 0, 1), (4, 1, 2, 2)]
)
def test_first_and_second_derivatives_are_right(name, groups, stride, padding, dilation):
    spec = ConvSpec(4, 8, (2, 3), stride, padding, dilation, bias=True)
    inputs = [t.requires_grad_() for t in tensors(spec, groups, 2, (5, 6), dtype=torch.float64)]

    def conv(x, weight, bias):
        return run(name, x, weight, bias, spec, groups)

    assert torch.autograd.gradcheck(conv, inputs)
    assert torch.autograd.gradgradcheck(conv, inputs)


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        ((1, 6, 5, 5), (6, 3, 3, 3), {"groups": 4}, "groups=4: must be a divisor of in_channels=6"),
        ((1, 6, 5, 5), (4, 2, 3, 3), {"groups": 3}, "groups=3: must be a divisor of out_channels=4"),
        ((1, 6, 5, 5), (6, 3, 3, 3), {"groups": 0}, "groups=0"),
        ((1, 6, 5, 5), (6, 4, 3, 3), {"groups": 2}, r"weight.shape\[1\]=4: must be in_channels / groups = 3"),
        ((1, 6, 2, 5), (6, 3, 3, 3), {"groups": 2}, r"size=\(2, 5\): must be large enough for"),
        ((1, 6, 5, 5), (6, 3, 3, 3), {"groups": 2, "stride": 0}, "stride=0: must be an int of at least 1"),
        ((6, 5), (6, 3, 3, 3), {"groups": 2}, r"x.shape=\(6, 5\): must be \(images, channels"),
        ((1, 6, 5, 5), (6, 3, 3), {"groups": 2}, r"weight.shape=\(6, 3, 3\): must be"),
        ((1, 6, 5, 5), (6, 6, 3, 3), {"bias": torch.ones(5)}, r"bias.shape=\(5,\): must be one number per"),
        ((1, 6, 5, 5), (6, 6, 3, 3), {"padding": "full"}, "padding='full': must be a number"),
        (
            (1, 6, 5, 5),
            (6, 6, 3, 3),
            {"padding": "same", "stride": 2},
            "padding='same': must be numbers with",
        ),
        ((1, 6, 5, 5), (6, 6, 3, 3), {"padding": -2}, r"size=\(5, 5\): must be large enough"),
    ],
)
def test_shapes_that_do_not_fit_are_named(x, weight, options, message):
    with pytest.raises(SpecError, match=message):
        grouped_conv2d(torch.zeros(x), torch.zeros(weight), **options)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("padding", ["same", "valid", -1, (1, -1)])
@pytest.mark.parametrize(("kernel", "dilation"), [((3, 3), 1), ((2, 4), 1), ((4, 3), (3, 2)), ((1, 1), 1)])
def test_padding_by_name_or_negative_of_images_with_and_without_a_batch(name, padding, kernel, dilation):
    x, weight = torch.randint(-3, 4, (2, 4, 14, 15)).float(), torch.randint(-3, 4, (6, 2, *kernel)).float()
    bias = torch.arange(6.0)
    options = {"padding": padding, "dilation": dilation, "groups": 2}
    if isinstance(padding, str):
        expected = F.conv2d(x, weight, bias, **options)
    else:
        down, across = padding if isinstance(padding, tuple) else (padding, padding)
        framed = F.pad(x, (across, across, down, down))
        expected = F.conv2d(framed, weight, bias, dilation=dilation, groups=2)
    with backend(name):
        assert torch.equal(grouped_conv2d(x, weight, bias, **options), expected)
        assert torch.equal(grouped_conv2d(x[0], weight, bias, **options), expected[0])


def test_the_choice_of_a_backend_can_be_explained_and_overridden():
    spec = ConvSpec(4, 4, 3, padding=1)
    problem = Problem(spec, 2, 1, (5, 5), torch.float32, torch.device("cpu"), needs_grad=False)
    assert explain(problem)["torch"] == explain(problem)["reference"] == "yes"
    assert list(explain(problem)) == list(BACKENDS)
    with pytest.raises(ParameterError, match="backend='cudnn': must be one of"), backend("cudnn"):
        pass


def test_a_backend_that_cannot_says_why_and_is_passed_over(monkeypatch):
    refusing = Backend("picky", BACKENDS["torch"].compute, lambda problem: "only on Sundays")
    monkeypatch.setattr("regroup.ops.conv.BACKENDS", {"picky": refusing, **BACKENDS})
    x, weight = torch.ones(1, 4, 3, 3), torch.ones(4, 2, 3, 3)
    assert torch.equal(grouped_conv2d(x, weight, groups=2), F.conv2d(x, weight, groups=2))
    with (
        pytest.raises(ParameterError, match="one that can compute this problem; only on Sundays"),
        backend("picky"),
    ):
        grouped_conv2d(x, weight, groups=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OURS)
def test_pytorchs_own_samples_of_a_convolution(name):
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (op for op in op_db if op.name == "nn.functional.conv2d")
    count = 0
    for sample in info.sample_inputs("cpu", torch.float32):
        x, (weight, *rest), options = sample.input, sample.args, dict(sample.kwargs)
        names = ("bias", "stride", "padding", "dilation", "groups")
        options |= dict(zip(names, rest, strict=False))
        bias = options.pop("bias", None)
        exact, magnitude = (
            F.conv2d(*(change(t.double()) if t is not None else None for t in (x, weight, bias)), **options)
            for change in (lambda t: t, torch.abs)
        )
        with backend(name):
            y = grouped_conv2d(x, weight, bias, **options)
        bound = rounding_bound(exact, magnitude, weight[0].numel() + 1)
        assert worst_ratio(y, exact, bound) <= 1 and y.shape == exact.shape, options
        count += 1
    assert count > 20
