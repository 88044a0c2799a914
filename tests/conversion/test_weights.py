"""Trained weights are never lost in silence: what is said of them is what the modules compute."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regroup
from regroup.errors import ConfigError
from regroup.ops.bounds import rounding_bound, worst_ratio
from regroup.ops.nearest import coarsened, factors, separated
from regroup.spec import ConvSpec
from regroup.strategies import Strategy, parse_strategy, strategies
from regroup.strategies.starting import DenseWeights, measured
from regroup.testing.specs import conv_specs, sizes
from regroup.testing.starting import starts_from_dense

VARIANTS = [variant for name in strategies for variant in strategies[name].variants()]
FURTHER = (
    "grouped:groups=1",
    "separable:multiplier=4",
    "separable:order=pointwise-depthwise,multiplier=4",
    "fire:squeeze=2",
    "flattened:stages=3,bias=false",
    "interleaved:version=2,widths=2+2+2",
    "mixed:kernels=1+3,pointwise=false",
    "octave:alpha=0",
    "octave:alpha_in=0,alpha_out=0.5",
    "octave:alpha_in=0.5,alpha_out=0,groups=2",
    "biglittle",
    "biglittle:alpha=1",
    "scaled:scales=1,allocation=1",
    "inception:widths=2+4+4+4+2+1",
    "shifted:channels=true,start=0",
)
KEPT = (
    "dense",
    "shifted",
    "condensed",
    "reactivated",
    "groupable",
    "dynamic",
    "octave:alpha=0",
    "scaled:scales=1,allocation=1",
    "grouped:groups=1",
    "separable:multiplier=9",
    "biglittle:alpha=1",
)


def convolution(spec):
    shape = (spec.in_channels, spec.out_channels, spec.kernel_size, spec.stride, spec.padding, spec.dilation)
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[spec.dims - 1](*shape, bias=spec.bias).eval()


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(conv_specs(), st.sampled_from([*VARIANTS, *map(parse_strategy, FURTHER)]), st.integers(0, 9))
def test_what_is_said_of_the_weights_is_what_the_module_computes(spec, strategy, seed):
    """Kept: the dense layer's outputs within the rounding bound; approximated: with the error said."""
    plain = all(isinstance(p, int) and p >= 0 for p in spec.padding)  # what PyTorch's layers take
    if not plain or strategy.why_not(spec):
        return
    torch.manual_seed(seed)
    starts_from_dense(strategy, spec)
    conv = convolution(spec)
    start = strategy.from_dense(conv)
    assert (start.error is not None) == (start.weights == "approximated")
    if start.weights != "kept":
        return
    wide = convolution(spec).double()
    wide.load_state_dict(conv.state_dict())
    x = torch.randn(2, spec.in_channels, *sizes(spec)[0])
    with torch.no_grad():
        exact = wide(x.double())
        for numbers in wide.parameters():
            numbers.abs_()
        magnitude = wide(x.double().abs())
        terms = (
            spec.in_channels * spec.taps + spec.bias + 2
        )  # 2: a kernel that is a product of rounded factors
        bound = rounding_bound(exact, magnitude, terms)
        assert worst_ratio(start.module(x), exact, bound) <= 1, strategy


@pytest.mark.parametrize("label", KEPT)
def test_strategies_that_can_hold_a_dense_kernel_keep_it(label):
    start = parse_strategy(label).from_dense(nn.Conv2d(16, 16, 3, padding=1))
    assert str(start) == "kept"


def test_a_kernel_that_a_form_has_is_found_again():
    """What is separable, of rank one or block diagonal already loses nothing but rounding."""
    torch.manual_seed(0)
    forms = (
        "separable",
        "flattened:stages=1",
        "interleaved",
        "interleaved:version=2",
        "grouped",
        "mixed:kernels=3",
    )
    for label in forms:
        strategy, spec = parse_strategy(label), ConvSpec(16, 16, 3, padding=1)
        original = strategy.build(spec).double()
        for parameter in original.parameters():  # biases of their own would make it another map
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
        conv = nn.Conv2d(16, 16, 3, padding=1, bias=False).double()
        impulses = torch.eye(16, dtype=torch.float64)[:, :, None, None] * torch.zeros(5, 5).index_put(
            (torch.tensor(2), torch.tensor(2)), torch.tensor(1.0)
        )
        with torch.no_grad():
            conv.weight.copy_(original(impulses)[:, :, 1:4, 1:4].flip(2, 3).transpose(0, 1))
        start = strategy.from_dense(conv)
        assert start.weights == "kept" or start.error < 1e-7, label


@pytest.mark.parametrize(
    "spec", [ConvSpec(2, 2, 3, padding=1), ConvSpec(2, 2, 3, 2, 1), ConvSpec(2, 2, 5, padding=4, dilation=2)]
)
@pytest.mark.parametrize("label", ["octave:alpha=0.5", "biglittle:alpha=2"])
def test_no_other_coarse_kernel_is_nearer(spec, label):
    """The closed form is where the error, measured, has no slope in any weight of the coarse grid."""
    torch.manual_seed(0)
    strategy, conv = parse_strategy(label), convolution(spec).double()
    module = strategy.from_dense(conv).module
    places = [(c, 16 + r, 16 + s) for c in range(2) for r in range(4) for s in range(4)]
    images = torch.zeros(len(places), 2, 48, 48, dtype=torch.float64)
    for image, (c, r, s) in zip(images, places, strict=True):
        image[c, r, s] = 1
    (module(images) - conv(images)).square().sum().backward()
    coarse = [
        n for n, p in module.named_parameters() if p.dim() == 4 and not n.startswith(("little.2", "little.0"))
    ]
    assert coarse
    for name in coarse:
        gradient = module.get_parameter(name).grad
        assert float(gradient.abs().max()) < 2.0**-30 * images.numel(), name


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), rank=st.integers(1, 9), batch=st.integers(1, 3))
def test_factors_miss_what_the_singular_values_left_out_have(rows, columns, rank, batch):
    matrix = torch.randn(batch, rows, columns, dtype=torch.float64)
    left, right = factors(matrix, rank)
    assert left.shape[-1] == right.shape[-2] == min(rank, rows, columns)
    missed = (left @ right - matrix).square().sum((1, 2))
    least = torch.linalg.svdvals(matrix)[:, rank:].square().sum(1)
    assert ((missed - least).abs() <= 2.0**-40 * matrix.square().sum((1, 2))).all()


def test_separated_is_no_further_away_than_the_truncated_higher_order_svd():
    kernel = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    lateral, down, across = separated(kernel)
    found = torch.einsum("kc,kr,ks->kcrs", lateral, down, across)
    sides = [torch.linalg.svd(kernel.movedim(axis, 1).flatten(2)).U[..., 0] for axis in (1, 2, 3)]
    core = torch.einsum("kcrs,kc,kr,ks->k", kernel, *sides)
    truncated = torch.einsum("k,kc,kr,ks->kcrs", core, *sides)
    far, near = ((kernel - other).square().sum((1, 2, 3)) for other in (truncated, found))
    assert (near <= far * (1 + 2.0**-40)).all()


def test_a_constant_image_sees_the_same_sum_on_a_coarse_grid():
    spec, kernel = ConvSpec(3, 3, 5, padding=2), torch.randn(3, 3, 5, 5, dtype=torch.float64)
    coarse = coarsened(kernel, spec, (2, 2), (2, 2))
    assert float((coarse.sum((2, 3)) - kernel.sum((2, 3))).abs().max()) < 2.0**-40


def test_the_table_says_what_became_of_each_layers_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 9, 3), nn.Conv2d(9, 9, 3))
    text = str(regroup.replace(model, "separable", lambda name, conv: True))
    assert text.splitlines()[1].endswith("kept")
    assert "3x3, bias  approximated (error 0." in text
    assert text.splitlines()[-1].startswith("weights: 1 kept, 3 approximated (error 0.")
    fresh = regroup.replace(nn.Sequential(nn.Conv2d(8, 8, 3)), "dense", weights="fresh")
    assert str(fresh).splitlines()[-1] == "weights: 1 new"
    with pytest.raises(ConfigError, match="weights='kept'"):
        regroup.replace(model, "dense", weights="kept")


def test_a_strategy_that_says_nothing_of_weights_starts_from_new_ones_and_is_told():
    class Plugin(Strategy):
        name = "plugin"

        def build(self, spec):
            return nn.Conv2d(spec.in_channels, spec.out_channels, spec.kernel_size)

        label = "plugin"

    model = nn.Sequential(nn.Conv2d(8, 8, 3))
    assert "new: plugin does not say how it starts from dense weights" in str(
        regroup.replace(model, Plugin())
    )


def test_a_trained_network_computes_the_same_after_its_layers_were_replaced_by_what_keeps_them():
    model = torchvision.models.squeezenet1_1(num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    before = model(x)
    changes = regroup.replace(model, "condensed:groups=4")
    assert {start.weights for start in changes.starts.values()} == {"kept"}
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_other_types_are_kept_too(dtype):
    conv = nn.Conv2d(8, 8, 3).to(dtype)
    start = parse_strategy("grouped:groups=1").from_dense(conv)
    assert start.weights == "kept" and torch.equal(start.module.weight, conv.weight)


def test_on_the_meta_device_there_are_no_weights_to_keep():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(8, 8, 3))
        assert "new: the convolution has a shape alone" in str(regroup.replace(model, "dense"))


def test_the_error_of_many_channels_is_estimated_to_a_hundredth():
    """Of a block diagonal the error is known: the norm of what lies outside of its groups."""
    torch.manual_seed(0)
    conv = nn.Conv2d(96, 80, 3, padding=1)
    start = parse_strategy("grouped:groups=4").from_dense(conv)
    outside = conv.weight.detach().clone()
    for group in range(4):
        outside[20 * group : 20 * (group + 1), 24 * group : 24 * (group + 1)] = 0
    assert start.error == pytest.approx(float(outside.norm() / conv.weight.detach().norm()), abs=0.01)
    assert parse_strategy("condensed").from_dense(conv).weights == "kept"
    off = nn.Conv2d(96, 80, 3, padding=1)
    off.load_state_dict(conv.state_dict())
    with torch.no_grad():
        off.weight[3, 5, 1, 2] += 1e-3
    assert 0 < measured(off, DenseWeights.of(conv)) < 1e-3
