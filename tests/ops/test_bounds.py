"""The rounding bound is tight enough to see a mistake and wide enough never to cry wolf."""

import torch

from regroup.ops.bounds import rounding_bound, unit_roundoff, worst_ratio


def test_unit_roundoffs_are_those_of_ieee():
    assert unit_roundoff(torch.float32) == 2.0**-24
    assert unit_roundoff(torch.float64) == 2.0**-53
    assert unit_roundoff(torch.float16) == 2.0**-11
    assert unit_roundoff(torch.bfloat16) == 2.0**-8


def test_sums_in_any_order_stay_within_the_bound_and_a_lost_term_does_not():
    terms = torch.randn(1000)
    exact, magnitude = terms.double().sum(), terms.double().abs().sum()
    bound = rounding_bound(exact, magnitude, 1000)
    for seed in range(20):
        order = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))
        assert worst_ratio(terms[order].cumsum(0)[-1], exact, bound) <= 1
    assert worst_ratio(terms[1:].sum(), exact, bound) > 1


def test_nan_never_passes_and_an_exact_zero_does():
    zero = torch.zeros(2, dtype=torch.float64)
    assert worst_ratio(torch.tensor([0.0, float("nan")]), zero, zero) == float("inf")
    assert worst_ratio(torch.zeros(2), zero, zero) == 0
    assert worst_ratio(torch.zeros(0), zero[:0], zero[:0]) == 0


def test_rounding_the_result_is_allowed_for():
    exact = torch.tensor([1 + 2.0**-9], dtype=torch.float64)
    bound = rounding_bound(exact, exact.abs(), 0, torch.bfloat16)
    assert 0 < worst_ratio(exact.bfloat16(), exact, bound) <= 1
