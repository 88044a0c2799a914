"""Every operator that the engine claims, compiled, against PyTorch: its samples, layouts, hard numbers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from random import Random

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from regroup import compile
from regroup.ops.bounds import rounding_bound, unit_roundoff, worst_ratio
from tests.engine.operators import CLAIMED, Call, ours, samples

MANY = int(os.environ.get("REGROUP_FUZZ", 0))

SUMS = {
    "convolution", "regroup::convolution", "addmm", "mm", "native_batch_norm",
    "_native_batch_norm_legit_no_training", "mean.dim", "_adaptive_avg_pool2d", "avg_pool2d",
    "upsample_bilinear2d", "div.Tensor", "div.Scalar", "index_add", "regroup::dynamic_conv", "add.Tensor",
    "regroup::shifted_conv", "bmm",
    "mul.Tensor", "sub.Tensor", "sum.dim_IntList",
}  # fmt: skip
"""Operators whose results are sums of products, within the rounding bound of the exact ones."""

NORMS = {"native_group_norm", "native_layer_norm"}
"""Operators whose rounding is like that of their inputs: each input counts as its derivative does."""

FUNCTIONS = {
    "silu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "gelu",
    "_softmax",
    "elu",
    "celu",
    "mish",
    "softplus",
    "glu",
    "_safe_softmax",
    "_scaled_dot_product_flash_attention_for_cpu",
    *NORMS,
}
"""Operators that are computed by a formula of several roundings."""

SPREAD = {"aten::index_add", "regroup::dynamic_conv"}
"""Operators done by products with zeros, which an infinity turns into NaN; or that rank what is no number."""


STEEP = {"aten::_safe_softmax", "aten::_scaled_dot_product_flash_attention_for_cpu"}
"""Operators that round as their scores do: of hard numbers, whose products are large, what is finite is."""


def measures(call: Call, recorded: set[str]) -> bool:
    """Tell whether it is a norm by an image's own moments, which squares: 1e30 is too much for that."""
    return bool({name.removeprefix("aten::") for name in recorded} & NORMS) or "instance" in call.name


HARD = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40, -1e-40, 1e30, -1e30, 100.0, -100.0, 3.0)


def variants(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "as given", x
    yield "no images", x[:0]
    yield "one image", x[:1]
    yield "more images", torch.cat([x, x.flip(0), x])
    yield "a negative view", torch._neg_view(-x)
    yield "numbers apart", x.repeat_interleave(2, -1)[..., ::2]
    yield "one image again and again", x[:1].expand(4 * len(x[:1]), *x.shape[1:])
    if x.dim() == 4:
        yield "channels last", x.to(memory_format=torch.channels_last)
    yield "large", x * 1e15
    yield "small", x * 1e-25
    if x.numel():
        places = torch.randperm(x.numel())[: len(HARD)]
        yield "hard numbers", x.flatten().index_put((places,), torch.tensor(HARD[: len(places)])).view_as(x)


def check(call: Call, variant: str, x: Tensor, y: object, want: object, recorded: set[str]) -> None:
    where = f"{call.name}, {variant}"
    results, wants = pytree.tree_leaves(y), pytree.tree_leaves(want)
    assert len(results) == len(wants), where
    close = {name.removeprefix("aten::") for name in recorded} & (SUMS | FUNCTIONS)
    # in float64 the positions of a resizing, and so its weights, would be others
    wide = torch.float32 if "upsample_bilinear2d" in close else torch.float64
    exact = call.mapped(lambda tensor: tensor.to(wide))
    exacts = [t.double() for t in pytree.tree_leaves(exact(x.to(wide)))] if close else wants
    bounds = allowed(exact, x.to(wide), exacts, close, measures(call, recorded)) if close else wants
    for result, right, exact, bound in zip(results, wants, exacts, bounds, strict=True):
        if not isinstance(right, Tensor):
            assert result == right, where
            continue
        assert (result.shape, result.dtype) == (right.shape, right.dtype), where
        if not close or not right.is_floating_point():
            same = torch.equal(result, right) or torch.equal(*(t.nan_to_num(7.0) for t in (result, right)))
            assert same and torch.equal(result.isnan(), right.isnan()), where
            continue
        finite = right.isfinite()
        # PyTorch's own float32 and float64 may differ here: gelu(inf)
        rights = [numbers[~finite].float().nan_to_num(7.0) for numbers in (right, exact)]
        same = [result[~finite].nan_to_num(7.0) == one for one in rights]
        assert bool((same[0] | same[1]).all()), where
        assert worst_ratio(result[finite], exact[finite], bound[finite]) <= 1, where


def allowed(call: Call, x: Tensor, exacts: list, close: set[str], measured: bool) -> list:
    """Return how far from the exact results rounding may lead."""
    ones = [call.mapped(torch.abs)(x.abs()), call(x.abs()), call(torch.zeros_like(x))]
    found = []
    for exact, whole, positive, zero in zip(exacts, *map(pytree.tree_leaves, ones), strict=True):
        magnitude = (whole.abs() + (positive - zero).abs() + zero.abs()).nan_to_num(0.0)
        bound = rounding_bound(exact, magnitude, x[0].numel() + 2 if len(x) else 0)
        if close & FUNCTIONS:
            size = x.nan_to_num(0.0, 0.0, 0.0).abs()
            if x.shape != exact.shape:
                size = size.flatten(1).amax(1).view(-1, *[1] * (exact.dim() - 1))
            bound = bound + 8 * unit_roundoff(torch.float32) * (exact.abs() + size * exact.abs().clamp(max=1))
        if measured and len(x):
            slopes = torch.autograd.functional.jacobian(call, x).reshape(exact.numel(), x.numel()).abs()
            spread = (slopes.nan_to_num(0.0) @ x.abs().flatten()).view_as(exact)
            bound = bound + rounding_bound(exact, spread + exact.abs(), x[0].numel() + 8)
        found.append((bound + 1e-38).nan_to_num(0.0))
    return found


def sweep(call: Call) -> set[str]:
    """Compile a call, compare it with PyTorch on every kind of input, and return what ran natively."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            call(call.x)
        except Exception:
            return set()  # a sample of an error
        fast = compile(call, call.x)
        recorded, native = call.operators()
        for variant, x in variants(call.x):
            if not native and variant != "as given":
                continue
            if variant == "hard numbers" and (recorded & SPREAD or measures(call, recorded)):
                continue
            try:
                want = call(x)
            except Exception:
                continue  # other arguments are of the sample's batch size
            if variant == "hard numbers" and recorded & STEEP:
                assert torch.equal(fast(x).isfinite(), want.isfinite()), call.name
                continue
            check(call, variant, x, fast(x), want, recorded)
    return native


CALLS = ours()


@pytest.mark.parametrize("part", range(6))
def test_operators_on_images_and_vectors_are_pytorchs(part):
    for call in CALLS[part::6]:
        sweep(call)


@pytest.mark.timeout(0 if MANY else 300)
@pytest.mark.parametrize("claimed", CLAIMED)
def test_pytorchs_own_samples_of_an_operator(claimed):
    for call in samples(claimed, MANY or 1, Random(claimed)):
        sweep(call)


def test_every_operator_that_the_engine_claims_is_swept():
    swept = set().union(*(call.operators()[1] for call in CALLS))
    assert set(CLAIMED) <= swept, f"tests/engine/operators.py has no call of {set(CLAIMED) - swept}"
