"""What convolutions of integers mean, in NumPy: exact sums of a block, scaled and added in one rounding."""

from __future__ import annotations

import itertools

import numpy as np

from regroup.kernels import problems as p


def integers_of(x: np.ndarray, blocks: p.Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Return integers and steps, by the definition: (height, width, channels), (height, width, blocks)."""
    mantissas, steps = np.zeros(x.shape, np.int64), []
    low, high = -(2 ** (blocks.exponent - 1)), 2 ** (blocks.exponent - 1) - 1
    for first in range(0, blocks.channels, blocks.depth):
        for start in range(first, first + blocks.depth, blocks.block):
            own = slice(start, min(start + blocks.block, first + blocks.depth))
            largest = np.abs(x[..., own]).max(-1)
            exponent = np.clip(np.frexp(np.where(largest == 0, 2.0**low, largest))[1] - 1, low, high)
            step = np.exp2(exponent - blocks.mantissa + 2.0)
            mantissas[..., own] = np.rint(x[..., own].astype(np.float64) / step[..., None])
            steps.append(step)
    return mantissas, np.stack(steps, -1)


def defined(problem: p.IntegerConv, x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Return the result by the definition: exact sums of a block, scaled and added in one rounding each."""
    blocks, y = problem.form.blocks, problem.y
    mantissas, steps = integers_of(x, blocks)
    (kh, kw), halo = problem.kernel_size, problem.x_halo
    around = ((problem.padding[0], halo.bottom), (problem.padding[1], halo.right), (0, 0))
    mantissas, steps = np.pad(mantissas, around), np.pad(steps, around)
    outputs = y.channels // blocks.groups
    result = np.zeros((y.height, y.width, y.channels), np.float32)
    for group, ky, kx in itertools.product(range(blocks.groups), range(kh), range(kw)):
        rows, columns = (
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, n, s in zip(
                (ky, kx), problem.dilation, (y.height, y.width), problem.stride, strict=True
            )
        )
        own = slice(group * outputs, (group + 1) * outputs)
        for b in range(blocks.per_group):
            low, end = b * blocks.block, min((b + 1) * blocks.block, blocks.depth)
            source = mantissas[rows, columns, group * blocks.depth + low : group * blocks.depth + end]
            total = source @ weights["weight"][own, low:end, ky, kx].astype(np.int64).T
            step = steps[rows, columns, group * blocks.per_group + b][..., None]
            product = total * step * weights["shifts"][own, b, ky, kx].astype(np.float64)
            result[..., own] = _added(product, result[..., own])
    return result + weights["bias"] if "bias" in weights else result


def _added(product: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the sum in float32, rounded once: it is exact in float64, which is made sure of."""
    wide = total.astype(np.float64)
    sum_ = product + wide
    back = sum_ - product
    assert not np.any((product - (sum_ - back)) + (wide - back)), "the reference rounds twice"
    return sum_.astype(np.float32)
