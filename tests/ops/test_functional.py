"""The convolution in groups: each backend, each pass, against its definition, within the bound or exactly."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from regroup.errors import ParameterError, SpecError
from regroup.ops.backends import backend, backends
from regroup.ops.bounds import rounding_bound, worst_ratio
from regroup.ops.counting import Counter
from regroup.ops.functional import conv, conv1d, conv2d, conv3d
from regroup.ops.layers import block_diagonal
from regroup.ops.passes import Call

from .convolutions import ATEN, LAYOUTS, Case, cases, definition, gradients, lay_out

OURS = ("llvm", "aten", "reference")
_FUZZ = int(os.environ.get("REGROUP_FUZZ", "0"))
quick = settings(max_examples=_FUZZ or 40, deadline=None, derandomize=not _FUZZ)
seeds = st.integers(0, 2**20)


def run(name, x, weight, bias, case):
    with backend(name):
        return conv(x, weight, bias, *case.sizes)


@pytest.mark.parametrize("name", OURS)
@given(cases(), st.sampled_from(LAYOUTS), seeds)
@quick
def test_float32_lies_within_the_rounding_bound(name, case, layout, seed):
    torch.manual_seed(seed)
    x, weight, bias = case.tensors()
    x = lay_out(x, layout)
    exact = definition(x, weight, bias, case)
    magnitude = definition(x.abs(), weight.abs(), None if bias is None else bias.abs(), case)
    bound = rounding_bound(exact, magnitude, weight[0].numel() + case.bias)
    assert worst_ratio(run(name, x, weight, bias, case), exact, bound) <= 1


@pytest.mark.parametrize("name", OURS)
@given(cases(), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), seeds)
@quick
def test_integers_are_exact_in_all_passes_and_layouts(name, case, layout, upstream, seed):
    torch.manual_seed(seed)
    x, weight, bias = case.tensors(integers=True)
    x = lay_out(x, layout)
    y = run(name, x, weight, bias, case)
    assert torch.equal(y.double(), definition(x, weight, bias, case))
    g = lay_out(torch.randint(-3, 4, y.shape).float(), upstream)
    call = Call(tuple(x.shape), tuple(weight.shape), *case.sizes)
    dx, dw = gradients(x, weight, g, case)
    assert torch.equal(backends()[name].input_gradient(g, weight, call).double(), dx)
    assert torch.equal(backends()[name].weight_gradient(x, g, call).double(), dw)


@pytest.mark.parametrize("name", OURS)
@given(cases(), seeds)
@quick
def test_gradients_lie_within_the_rounding_bound(name, case, seed):
    torch.manual_seed(seed)
    x, weight, bias = (None if t is None else t.requires_grad_() for t in case.tensors())
    y = run(name, x, weight, bias, case)
    g = torch.randn_like(y)
    with backend(name):
        dx, dw, *db = torch.autograd.grad(y, [t for t in (x, weight, bias) if t is not None], g)
    exact, magnitude = gradients(x, weight, g, case), gradients(x.abs(), weight.abs(), g.abs(), case)
    pixels = case.images * y[0, 0].numel()
    terms = case.width_out * weight[0, 0].numel(), pixels
    for result, right, size, count in zip((dx, dw), exact, magnitude, terms, strict=True):
        assert worst_ratio(result, right, rounding_bound(right, size, count)) <= 1
    if db:
        axes = (0, *range(2, g.dim()))
        right, size = g.double().sum(axes), g.double().abs().sum(axes)
        assert worst_ratio(db[0], right, rounding_bound(right, size, pixels)) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(cases(bias=False), seeds)
@quick
def test_half_precision_with_a_float32_accumulator_lies_within_the_bound(dtype, case, seed):
    torch.manual_seed(seed)
    x, weight, _ = case.tensors(dtype=dtype)
    exact = definition(x, weight, None, case)
    magnitude = definition(x.abs(), weight.abs(), None, case)
    bound = rounding_bound(exact, magnitude, weight[0].numel(), dtype)
    assert worst_ratio(conv(x, weight, None, *case.sizes), exact, bound) <= 1


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dilated_kernels_of_one_tap_beside_padding_are_no_crash_in_float16(rank):
    """oneDNN's, of PyTorch 2.14 where the CPU computes in float16: 8 of 3,000 random convolutions."""
    case = Case(3, 5, 3, (1,) * rank, (2,) * rank, (1,) * rank, (2,) * rank, 2, (1,) * rank, False)
    x, weight, _ = case.tensors(dtype=torch.float16)
    for _ in range(20):
        assert torch.equal(conv(x, weight, None, *case.sizes), torch.zeros(2, 9, *case.out).half())


@pytest.mark.parametrize("name", OURS)
@given(cases(bias=False), seeds)
@quick
def test_laws_that_need_no_reference(name, case, seed):
    """Check linearity, independence of images, exchange of groups, and the adjoint, all exactly."""
    torch.manual_seed(seed)
    x, weight, _ = case.tensors(integers=True)
    other, groups = torch.randint_like(x, -3, 4), case.groups

    def apply(x, weight=weight):
        return run(name, x, weight, None, case)

    y = apply(x)
    assert torch.equal(apply(2 * x - other), 2 * y - apply(other))
    assert torch.equal(torch.cat([apply(image[None]) for image in x]), y)
    assert torch.equal(apply(x.flip(0)), y.flip(0))
    order = torch.randperm(groups)
    moved_x, moved_w = (
        t.unflatten(d, (groups, -1)).index_select(d, order).flatten(d, d + 1)
        for t, d in ((x, 1), (weight, 0))
    )
    moved_y = y.unflatten(1, (groups, -1))[:, order].flatten(1, 2)
    assert torch.equal(apply(moved_x, moved_w), moved_y)
    leaf, g = x.clone().requires_grad_(), torch.randint_like(y, -3, 4)
    with backend(name):
        (adjoint,) = torch.autograd.grad(apply(leaf), leaf, g)
    assert torch.equal((adjoint * other).sum(), (g * apply(other)).sum())


@given(cases(bias=False), st.integers(2, 4), seeds)
@quick
def test_results_do_not_depend_on_the_number_of_threads(case, threads, seed):
    torch.manual_seed(seed)
    x, weight, _ = case.tensors()
    call = Call(tuple(x.shape), tuple(weight.shape), *case.sizes)
    native, found = backends()["llvm"], []
    for count in (1, threads):
        torch.set_num_threads(count)
        y = native.forward(x, weight, None, call)
        found.append((y, native.input_gradient(y, weight, call), native.weight_gradient(x, y, call)))
    torch.set_num_threads(1)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("groups", "width"), [(2, 3), (4, 1), (4, 8), (8, 4)])
def test_nan_in_one_group_stays_in_its_group_in_all_passes(name, poison, groups, width):
    case = Case(groups, width, width, (3, 3), (1, 1), (1, 1), (1, 1), 2, (6, 6), False)
    torch.manual_seed(0)
    x, weight, _ = case.tensors()
    call, who = Call(tuple(x.shape), tuple(weight.shape), *case.sizes), backends()[name]
    g = torch.randn_like(x)

    def by_group(x):
        results = who.forward(x, weight, None, call), who.input_gradient(x, weight, call)
        parts = [y.unflatten(1, (groups, width)).movedim(1, 0) for y in results]
        return [*parts, who.weight_gradient(x, g, call).unflatten(0, (groups, width))]

    clean = by_group(x)
    for sick in range(groups):
        ill = x.clone()
        ill[:, sick * width : (sick + 1) * width] = poison
        for got, right in zip(by_group(ill), clean, strict=True):
            healthy = [i for i in range(groups) if i != sick]
            error = (got[healthy] - right[healthy]).abs().max()
            assert error <= 1e-30 + 64 * 9 * width * 2**-24 * right.abs().max()
            assert not got[sick].isfinite().any()


def test_one_infinite_pixel_reaches_the_weights_that_see_it_and_no_others():
    """The top left tap never meets the last pixel, though that lies in a line beside what it does meet."""
    x, g = torch.ones(1, 2, 5, 5), torch.ones(1, 2, 5, 5)
    x[0, 0, 4, 4] = torch.inf
    leaf = torch.ones(2, 1, 3, 3, requires_grad=True)
    (dw,) = torch.autograd.grad(conv2d(x, leaf, padding=1, groups=2), leaf, g)
    (right,) = torch.autograd.grad(F.conv2d(x, leaf, padding=1, groups=2), leaf, g)
    assert torch.equal(dw, right)
    assert dw[0, 0, 2, 2].isinf() and dw[0, 0, 0].isfinite().all() and dw[1].isfinite().all()


@pytest.mark.parametrize("name", ["aten", "reference"])  # generated code is float32: it is compared below
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 2, 4, (2, 3), (1, 1), (1, 1), (1, 1), 2, (5, 6), True),
        Case(4, 1, 2, (3,), (2,), (0,), (2,), 2, (8,), True),
        Case(2, 1, 1, (2, 1, 2), (1, 2, 1), (1, 0, 1), (1, 1, 1), 1, (3, 3, 3), True),
    ],
)
def test_first_and_second_derivatives_are_right(name, case):
    inputs = [t.requires_grad_() for t in case.tensors(dtype=torch.float64)]

    def apply(x, weight, bias):
        return run(name, x, weight, bias, case)

    with backend(name):
        assert torch.autograd.gradcheck(apply, inputs)
        assert torch.autograd.gradgradcheck(apply, inputs)


@given(cases(), seeds)
@settings(quick, max_examples=15)
def test_second_derivatives_of_generated_code_are_those_of_pytorch(case, seed):
    torch.manual_seed(seed)
    results = []
    for function in (conv, ATEN[case.rank]):
        torch.manual_seed(seed)
        x, weight, bias = (None if t is None else t.requires_grad_() for t in case.tensors(integers=True))
        y = function(x, weight, bias, *case.sizes)
        first = torch.autograd.grad(y, (x, weight), y.detach(), create_graph=True)
        results.append(torch.autograd.grad([t.sum() for t in first], (x, weight)))
    assert all(map(torch.equal, *results))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pytorch_knows_all_that_an_operator_must_tell(rank):
    case = Case(4, 2, 3, (3,) * rank, (2,) * rank, (1,) * rank, (1,) * rank, 2, (7,) * rank, True)
    x, weight, bias = (t.requires_grad_() for t in case.tensors())
    sizes = [list(s) for s in case.sizes[:3]]
    torch.library.opcheck(torch.ops.regroup.convolution.default, (x, weight, bias, *sizes, 4))
    g = torch.randn_like(conv(x, weight, bias, *case.sizes).detach()).requires_grad_()
    arguments = (g, weight, x.shape, *sizes, 4)
    torch.library.opcheck(torch.ops.regroup.convolution_input_gradient.default, arguments)
    arguments = (x, g, weight.shape, *sizes, 4)
    torch.library.opcheck(torch.ops.regroup.convolution_weight_gradient.default, arguments)


@given(cases(), st.sampled_from(((0, None), (None, 0), (0, 0), (1, 1))), seeds)
@settings(quick, max_examples=15)
def test_it_can_be_mapped(case, dims, seed):
    torch.manual_seed(seed)
    x, weight, bias = case.tensors(integers=True)
    x, weight = (
        t if d is None else torch.stack([t, 2 * t, t + 1], d) for t, d in zip((x, weight), dims, strict=True)
    )
    each = [
        conv(x if dims[0] is None else x.select(dims[0], i),
             weight if dims[1] is None else weight.select(dims[1], i), bias, *case.sizes)
        for i in range(3)
    ]  # fmt: skip
    mapped = torch.vmap(lambda x, w: conv(x, w, bias, *case.sizes), dims)(x, weight)
    assert torch.equal(mapped, torch.stack(each))


def test_gradients_of_each_image_come_from_torch_func():
    case = Case(4, 2, 2, (3, 3), (1, 1), (1, 1), (1, 1), 5, (6, 6), False)
    x, weight, _ = case.tensors(integers=True)

    def loss(weight, image):
        return conv(image[None], weight, None, *case.sizes).square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x)
    assert torch.equal(mapped, torch.stack([torch.func.grad(loss)(weight, image) for image in x]))


def test_it_is_compiled_and_exported_as_one_graph():
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=4)
    x = torch.randn(2, 8, 6, 6)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return conv2d(x, self.layer.weight, self.layer.bias, padding=1, groups=4).relu()

    net = Net()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), net(x))
    (got,) = torch.autograd.grad(compiled(x).sum(), layer.weight)
    (right,) = torch.autograd.grad(net(x).sum(), layer.weight)
    assert torch.equal(got, right)
    program = torch.export.export(net, (x,))
    assert any(node.target is torch.ops.regroup.convolution.default for node in program.graph.nodes)
    assert torch.equal(program.module()(x), net(x))


def test_it_counts_and_casts_like_pytorchs():
    x, weight = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randn(12, 2, 3, 3, requires_grad=True)
    with Counter() as counter:
        conv2d(x, weight, padding=1, groups=4).sum().backward()
    assert counter.macs == 3 * 2 * 12 * 36 * 18 and not counter.uncounted
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, weight, groups=4).dtype == torch.bfloat16


@pytest.mark.parametrize("groups", [1, 4])
def test_it_is_the_dense_convolution_with_a_block_diagonal_kernel(groups):
    case = Case(groups, 2, 3, (3, 3), (2, 1), (1, 0), (1, 2), 2, (9, 8), True)
    x, weight, bias = case.tensors(integers=True)
    dense = F.conv2d(x, block_diagonal(weight, groups), bias, case.stride, case.padding, case.dilation)
    assert torch.equal(conv2d(x, weight, bias, *case.sizes), dense)


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
        assert torch.equal(conv2d(x, weight, bias, **options), expected)
        assert torch.equal(conv2d(x[0], weight, bias, **options), expected[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pytorchs_own_samples_of_a_convolution_with_their_gradients(name, rank):
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (op for op in op_db if op.name == f"nn.functional.conv{rank}d")
    samples = list(info.sample_inputs("cpu", torch.float32))
    for sample in samples:
        (weight, *rest), options = sample.args, dict(sample.kwargs)
        options |= dict(zip(("bias", "stride", "padding", "dilation", "groups"), rest, strict=False))
        bias = options.pop("bias", None)
        integers = [None if t is None else t.round().requires_grad_() for t in (sample.input, weight, bias)]
        with backend(name):
            y = conv(*integers, **options)
            wanted = [t for t in integers if t is not None]
            found = torch.autograd.grad(y, wanted, y.detach()) if y.requires_grad else ()
        right = ATEN[rank](*integers, **options)
        theirs = torch.autograd.grad(right, wanted, right.detach()) if right.requires_grad else ()
        assert all(map(torch.equal, (y, *found), (right, *theirs))), options
    assert len(samples) > (1 if rank == 3 else 7)


def test_views_that_only_note_a_sign_are_read_with_it():
    """The imaginary part of a conjugate is such a view."""
    x, weight, bias = (torch.randn(s, dtype=torch.cfloat) for s in ((2, 4, 5, 5), (4, 1, 3, 3), (4,)))
    views = [t.conj().imag for t in (x, weight, bias)]
    assert all(t.is_neg() for t in views)
    plain = [t.clone().resolve_neg() for t in views]
    assert torch.equal(conv2d(*views, groups=4), conv2d(*plain, groups=4))
    g = torch.randn(2, 4, 3, 3, dtype=torch.cfloat).conj().imag
    sizes = (1, 1), (0, 0), (1, 1), 4
    call, native = Call((2, 4, 5, 5), (4, 1, 3, 3), *sizes), backends()["llvm"]
    dense = g.clone().resolve_neg()
    assert torch.equal(native.input_gradient(g, views[1], call), native.input_gradient(dense, plain[1], call))
    assert torch.equal(
        native.weight_gradient(views[0], g, call), native.weight_gradient(plain[0], dense, call)
    )


def test_a_batch_of_none_gives_none():
    x, weight = torch.randn(0, 4, 5, 5, requires_grad=True), torch.randn(4, 1, 3, 3, requires_grad=True)
    y = conv2d(x, weight, groups=4)
    y.sum().backward()
    assert y.shape == (0, 4, 3, 3) and torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        ((1, 6, 5, 5), (6, 3, 3, 3), {"groups": 4}, "groups=4: must be a divisor of in_channels=6"),
        ((1, 6, 5, 5), (4, 2, 3, 3), {"groups": 3}, "groups=3: must be a divisor of out_channels=4"),
        ((1, 6, 5, 5), (6, 3, 3, 3), {"groups": 0}, "groups=0"),
        ((1, 6, 5, 5), (6, 4, 3, 3), {"groups": 2}, r"weight.shape\[1\]=4: must be in_channels / groups = 3"),
        ((1, 6, 2, 5), (6, 3, 3, 3), {"groups": 2}, r"x.shape\[2:\]=\(2, 5\): must be at least"),
        ((1, 6, 5, 5), (6, 3, 3, 3), {"groups": 2, "stride": 0}, "stride=0: must be an int of at least 1"),
        ((1, 6, 5, 5), (6, 3, 3, 3), {"groups": 2, "padding": (1, 2, 3)}, r"padding=\(1, 2, 3\): must be"),
        ((1, 6, 5, 5), (6, 3, 3, 3), {"groups": 2, "padding": "full"}, "padding='full': must be"),
        ((1, 6, 5, 5), (6, 6, 3, 3), {"padding": -3}, r"padding=\(-3, -3\): must be less than crops all"),
        ((1, 6, 5, 5), (6, 6, 3, 3), {"padding": -2}, r"x.shape\[2:\]=\(1, 1\): must be at least"),
        ((1, 6, 5, 5), (6, 6, 3, 3), {"bias": torch.ones(5)}, r"bias.shape=\(5,\): must be \(6,\)"),
        ((1, 6, 5, 5), (6, 3, 3), {"groups": 2}, r"weight.dim\(\)=3: must be 4"),
        ((1, 6, 5, 5), (6, 3, 3, 3), {"stride": 2, "padding": "same"}, "stride=.*: must be 1"),
        ((6, 5), (6, 3, 3, 3), {"groups": 2}, r"x.dim\(\)=2: must be 4"),
    ],
)
def test_what_does_not_fit_is_named(x, weight, options, message):
    with pytest.raises(SpecError, match=message):
        conv2d(torch.zeros(x), torch.zeros(weight), **options)


def test_each_has_its_rank():
    for rank, function in enumerate((conv1d, conv2d, conv3d), 1):
        size = (5,) * rank
        assert function(torch.zeros(1, 2, *size), torch.zeros(2, 1, *(3,) * rank), groups=2).dim() == rank + 2
        with pytest.raises(SpecError, match=r"weight.dim\(\)"):
            function(torch.zeros(1, 2, 5), torch.zeros(2, 1, *(3,) * (rank % 3 + 1)))


def test_the_choice_of_a_backend_can_be_overridden():
    x, weight = torch.zeros(1, 4, 5, 5), torch.zeros(4, 2, 3, 3)
    with pytest.raises(ParameterError, match="backend='cudnn': must be one of"), backend("cudnn"):
        pass
    message = "one that can compute this; for float32, not for float64"
    with pytest.raises(ParameterError, match=message), backend("llvm"):
        conv2d(x.double(), weight.double(), groups=2)


@pytest.mark.parametrize("place", ["weight", "bias"])
@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16, torch.int64, torch.complex64, "meta"])
def test_tensors_of_several_types_or_devices_are_one_error(place, other):
    """Machine code would read their memory as float32, and beyond it."""
    x, tensors = torch.ones(1, 6, 9, 9), {"weight": torch.ones(6, 1, 3, 3), "bias": torch.ones(6)}
    tensors[place] = tensors[place].to(other)
    with pytest.raises(SpecError, match="meta" if other == "meta" else str(other)):
        conv2d(x, **tensors, groups=6)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.int8, np.uint8, np.array, torch.tensor])
@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
def test_what_counts_as_an_int_is_one(kind, name):
    x, weight = torch.randint(-3, 4, (2, 4, 9, 9)).float(), torch.randint(-3, 4, (4, 2, 3, 3)).float()
    for number in (1, 2):
        weight_of = {"groups": torch.ones(4, 4 // number, 3, 3)}.get(name, weight)
        options = {"groups": 2, name: number}
        right = F.conv2d(x, weight_of, **options)
        for value in (
            kind(number),
            *([(kind(number),) * 2, [kind(number), number]] if name != "groups" else []),
        ):
            assert torch.equal(conv2d(x, weight_of, **(options | {name: value})), right)
    for value in (True, np.True_, 1.0, np.float32(1), None, "1"):
        with pytest.raises(SpecError, match=f"{name}="):
            conv2d(x, weight, **({"groups": 2} | {name: value}))


@given(cases(), st.sampled_from([torch.complex64, torch.complex128]), seeds)
@settings(quick, max_examples=15)
def test_complex_convolutions_and_their_gradients_are_pytorchs(case, dtype, seed):
    torch.manual_seed(seed)
    real, imaginary = case.tensors(), case.tensors()
    results = []
    for function in (conv, ATEN[case.rank]):
        inputs = [
            None if a is None else torch.complex(a, b).to(dtype).requires_grad_()
            for a, b in zip(real, imaginary, strict=True)
        ]
        y = function(*inputs, *case.sizes)
        wanted = [t for t in inputs if t is not None]
        results.append((y, *torch.autograd.grad(y, wanted, y.detach())))
    assert all(map(torch.equal, *results))
    with pytest.raises(ParameterError, match="for float32, not for complex"), backend("llvm"):
        conv(*inputs, *case.sizes)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.complex64]
)
def test_autocast_changes_the_types_that_pytorchs_changes(dtype):
    x, weight = torch.ones(1, 4, 5, 5).to(dtype), torch.ones(4, 1, 3, 3).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y, right = (f(x, weight, groups=4) for f in (conv2d, F.conv2d))
    assert y.dtype == right.dtype and torch.equal(y, right)


def test_infinite_weights_reach_the_inputs_that_they_multiply_and_no_others():
    weight = torch.ones(6, 1, 3, 3)
    weight[0, 0, 0, 0] = torch.inf
    x, g = torch.ones(1, 6, 5, 5, requires_grad=True), torch.ones(1, 6, 5, 5)
    found, right = (
        torch.autograd.grad(f(x, weight, padding=1, groups=6), x, g)[0] for f in (conv2d, F.conv2d)
    )
    assert torch.equal(found, right) and not found.isnan().any() and found[:, 1:].isfinite().all()


@given(cases(), seeds)
@settings(quick, max_examples=10)
def test_forward_mode_derivatives_are_those_of_pytorch(case, seed):
    torch.manual_seed(seed)
    tensors, tangents = case.tensors(integers=True)[:2], case.tensors(integers=True)[:2]
    results = []
    for function in (conv, ATEN[case.rank]):

        def apply(x, weight, function=function):
            return function(x, weight, None, *case.sizes)

        with forward_ad.dual_level():
            dual = apply(*map(forward_ad.make_dual, tensors, tangents))
            results.append([*forward_ad.unpack_dual(dual)[:2]])
        results[-1] += torch.func.jvp(apply, tensors, tangents)
        results[-1].append(
            torch.func.jvp(torch.func.grad(lambda w: apply(tensors[0], w).sum()), tensors[1:], tangents[1:])[
                1
            ]
        )
    assert all(map(torch.equal, *results))


def test_shapes_are_known_without_memory():
    x, weight = torch.empty(2, 8, 9, 9, device="meta"), torch.empty(16, 1, 3, 3, device="meta")
    assert conv2d(x, weight, groups=8).shape == (2, 16, 7, 7) and conv2d(x, weight, groups=8).is_meta


def test_subclasses_of_tensors_see_one_function():
    seen = []

    class Noted(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    x = torch.ones(1, 4, 5, 5).as_subclass(Noted)
    assert type(conv2d(x, torch.ones(4, 1, 3, 3), groups=4)) is Noted and seen == [conv2d]
