"""The nearest to a dense kernel that a cheaper form can have, in closed form: blocks, products, coarse grids.

>>> left, right = factors(torch.tensor([[2.0, 4.0], [1.0, 2.0]]), rank=1)
>>> (left @ right).round().tolist()
[[2.0, 4.0], [1.0, 2.0]]

Nearest is meant by the sum of squares (Frobenius). Kernels are (K, C, *taps): outputs, inputs, height, width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.ops.layers import flat
from regroup.spec import ConvSpec, Extent


def diagonal_blocks(weight: Tensor, groups: int) -> Tensor:
    """Return the grouped kernel (K, C / groups, *taps) nearest to a dense one: what lies in its groups."""
    blocks = weight.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))
    each = torch.arange(groups, device=weight.device)
    return blocks[each, :, each].flatten(0, 1)


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return (left, right), (..., A, r) and (..., r, B), whose product is nearest to (..., A, B).

    r is `rank`, or A or B if that is less: then one of the two is the identity, and the product exact. Else
    both factors of each of the r terms have the same norm, so that they learn alike.

    Source: Eckart and Young, Psychometrika 1(3), 1936.
    """
    a, b = matrix.shape[-2:]
    if a < b:
        left, right = factors(matrix.mT, rank)
        return right.mT, left.mT
    if rank >= b:
        return matrix, torch.eye(b).to(matrix).expand(*matrix.shape[:-2], b, b)
    right = torch.linalg.eigh(matrix.mT @ matrix).eigenvectors[..., -rank:].mT
    left = matrix @ right.mT
    norms = left.norm(dim=-2)
    roots = torch.where(norms > 0, norms, 1).sqrt()
    return left / roots[..., None, :], right * roots[..., :, None]


def separated(weight: Tensor) -> list[Tensor]:
    """Return l (K, C), v (K, R), h (K, S), ... with l[k, c] v[k, r] h[k, s] ... near to w[k, c, r, s, ...].

    There is one for the channels, and one for each dimension of the kernel. The start is the truncated
    higher-order SVD; then each is fitted to the others in turns, which never takes it further away. All but l
    have norm 1, so that kernels of one tap are exact.

    Source: De Lathauwer, De Moor, Vandewalle, On the best rank-1 and rank-(R1, ..., RN) approximation of
    higher-order tensors, SIAM J. Matrix Anal. 21(4), 2000.
    """
    axes = "crst"[: weight.dim() - 1]
    sides = [weight.movedim(axis, 1).flatten(2) for axis in range(2, weight.dim())]
    lengths = {
        a: torch.linalg.eigh(s @ s.mT).eigenvectors[..., -1] for a, s in zip(axes[1:], sides, strict=True)
    }

    def fitted(axis: str) -> Tensor:
        others = [a for a in axes if a != axis]
        terms = ",".join([f"k{axes}", *(f"k{a}" for a in others)])
        return torch.einsum(f"{terms}->k{axis}", weight, *(lengths[a] for a in others))

    for _ in range(20):
        for axis in axes:
            lengths[axis] = _unit(fitted(axis))
    return [fitted("c"), *(lengths[axis] for axis in axes[1:])]


def _unit(vectors: Tensor) -> Tensor:
    """Return rows of norm 1; of a row of zeros the first number becomes 1, and of a single number it is 1."""
    norms = vectors.norm(dim=1, keepdim=True)
    first = F.one_hot(torch.zeros(len(vectors), dtype=torch.int64), vectors.shape[1]).to(vectors)
    return torch.where(norms > 0, vectors / norms, first)


def recentred(weight: Tensor, spec: ConvSpec, kernel_size: int | Extent) -> Tensor:
    """Return the kernel of another size where `spec.with_kernel` puts it: cut, or with zeros around.

    Args:
        weight: of the convolution, or of some of its channels.
        spec: of the convolution.
        kernel_size: the other size.
    """
    other = spec.with_kernel(kernel_size)
    before, after = (
        [(new - old) // d for new, old, d in zip(b, a, spec.dilation, strict=True)]
        for a, b in ((spec.before, other.before), (spec.after, other.after))
    )
    return F.pad(weight, flat(list(zip(before, after, strict=True))))


def coarsened(weight: Tensor, spec: ConvSpec, phases: Extent, pooled: Extent) -> Tensor:
    """Return the kernel on a coarser grid that is nearest to a dense kernel on the fine one.

    On the coarse grid a pixel is the mean of `pooled` pixels of the input, and each output is copied to
    `phases` pixels of the output: taps that lie in the same coarse pixel share their mean. With phase a,
    stride s and a tap at distance x from the centre, the coarse tap is floor((s a + x) / pooled); the
    nearest kernel is sum over a and x of w(x) / phases, for copies and means are orthogonal for different
    coarse taps.

    Args:
        weight: the dense kernel.
        spec: of the dense convolution, centred.
        phases: output pixels of each dimension that each coarse output is copied to.
        pooled: input pixels of each dimension in a coarse input; 1 where the coarse grid skips pixels.
    """
    shares = [_shares(spec, axis, phases[axis], pooled[axis]).to(weight) for axis in range(spec.dims)]
    fine, coarse = "rst"[: spec.dims], "abd"[: spec.dims]
    first, *others = map("".join, zip(coarse, fine, strict=True))
    terms = ",".join([first, f"kc{fine}", *others])
    return torch.einsum(f"{terms}->kc{coarse}", shares[0], weight, *shares[1:])


def _shares(spec: ConvSpec, axis: int, phases: int, pooled: int) -> Tensor:
    """Return how much of each fine tap a coarse one has: (coarse taps, fine taps) of one axis."""
    taps, dilation, stride = spec.kernel_size[axis], spec.dilation[axis], spec.stride[axis]
    places = [dilation * (tap - taps // 2) for tap in range(taps)]
    shares = torch.zeros(taps, taps, dtype=torch.float64)
    for fine, place in enumerate(places):
        for phase in range(phases):
            coarse = (stride * phase + place) // pooled
            if coarse in places:
                shares[places.index(coarse), fine] += 1 / phases
    return shares
