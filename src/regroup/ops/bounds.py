"""The rounding bound: how far a right result may lie from the float64 one. It replaces tuned tolerances.

A sum of K products in floating point, in any order, lies within K u A of the exact one, with u the unit
roundoff of the accumulator and A the sum of the products' magnitudes (Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., eq. 3.5). Storing the result rounds once more, with the output's unit roundoff,
or, where it is too small to be normal, to a multiple of the smallest number (eq. 2.8).
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of rounding a real number to `dtype`."""
    return torch.finfo(dtype).eps / 2


def rounding_bound(
    exact: Tensor,
    magnitude: Tensor,
    terms: int,
    dtype: torch.dtype = torch.float32,
    accumulator: torch.dtype = torch.float32,
) -> Tensor:
    """Return the largest |result - exact| that rounding alone can explain, elementwise.

    Args:
        exact: the result computed in float64.
        magnitude: the same computation on absolute values in float64, e.g. conv(|x|, |w|).
        terms: products summed for one output: (in_channels / groups) * kernel height * kernel width.
        dtype: of the result under test.
        accumulator: in which the sum is formed.
    """
    summed = terms * unit_roundoff(accumulator) * magnitude
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return summed + unit_roundoff(dtype) * (exact.abs() + summed) + smallest / 2


def worst_ratio(result: Tensor, exact: Tensor, bound: Tensor) -> float:
    """Return the largest |result - exact| / bound: at most 1 when the result is right."""
    error = (result.double() - exact).abs()
    if error.numel() == 0:
        return 0.0
    # 0/0 is a right zero; a NaN in the result must not pass as "not greater than 1"
    ratio = torch.where(error == 0, torch.zeros_like(error), error / bound)
    return float(ratio.nan_to_num(nan=float("inf")).max())
