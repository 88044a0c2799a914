"""The grouped convolution: its definition, and the choice of who computes it.

>>> x, weight = torch.randn(1, 8, 5, 5), torch.randn(6, 4, 3, 3)
>>> grouped_conv2d(x, weight, padding=1, groups=2).shape
torch.Size([1, 6, 5, 5])

Shape letters: N images, C input channels, K output channels, G groups, H W input size, P Q output size,
R S kernel size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.errors import ParameterError, SpecError
from regroup.spec import ConvSpec


@dataclass(frozen=True)
class Problem:
    """One concrete call: what a backend looks at to say whether it can compute it."""

    spec: ConvSpec
    groups: int
    batch: int
    size: Sequence[int]
    dtype: torch.dtype
    device: torch.device
    needs_grad: bool


def reference_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, spec: ConvSpec, groups: int) -> Tensor:
    """Compute the definition: one convolution for each group of channels, side by side.

    y[n, k, p, q] = bias[k] + sum over c in group(k), r, s of
    x[n, c, p*stride + r*dilation - padding, q*stride + s*dilation - padding] * weight[k, c, r, s],
    where group g holds input channels g*C/G ... and output channels g*K/G ... (Krizhevsky et al. 2012,
    section 3.2, as two groups on two devices).
    """
    width_in, width_out = x.shape[1] // groups, weight.shape[0] // groups
    parts = []
    for g in range(groups):
        group_x = x[:, g * width_in : (g + 1) * width_in]
        group_weight = weight[g * width_out : (g + 1) * width_out]
        columns = F.unfold(group_x, spec.kernel_size, spec.dilation, spec.padding, spec.stride)
        parts.append(group_weight.flatten(1) @ columns)
    height, width = spec.output_size(x.shape[2:])
    y = torch.cat(parts, 1).unflatten(2, (height, width))
    return y if bias is None else y + bias[:, None, None]


def _torch_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, spec: ConvSpec, groups: int) -> Tensor:
    return F.conv2d(x, weight, bias, spec.stride, spec.padding, spec.dilation, groups)


@dataclass(frozen=True)
class Backend:
    """Someone who can compute a grouped convolution, and who says why not when he cannot."""

    name: str
    compute: Callable[[Tensor, Tensor, Tensor | None, ConvSpec, int], Tensor]
    why_not: Callable[[Problem], str | None]


BACKENDS: dict[str, Backend] = {
    "torch": Backend("torch", _torch_conv2d, lambda problem: None),
    "reference": Backend("reference", reference_conv2d, lambda problem: None),
}
"""In order of preference: the first that can is chosen."""

_chosen: ContextVar[str | None] = ContextVar("regroup_backend", default=None)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Make every grouped_conv2d inside the `with` use the backend called `name`."""
    if name not in BACKENDS:
        raise ParameterError("backend", name, f"one of {', '.join(BACKENDS)}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def explain(problem: Problem) -> dict[str, str]:
    """Return, for each backend in order of preference, 'yes' or why it cannot."""
    return {name: b.why_not(problem) or "yes" for name, b in BACKENDS.items()}


def grouped_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve inside each of `groups` groups of channels.

    Args:
        x: (N, C, H, W), or one image without N.
        weight: (K, C / groups, R, S); rows g*K/groups ... belong to group g.
        bias: (K,) or None.
        stride: step of the window, one number or (height, width).
        padding: zeros on both sides, negative ones crop; "valid" is none, "same" as many as keep the size
            (one more below or on the right where their number is odd), for stride 1.
        dilation: distance between kernel taps.
        groups: number of groups; divides both C and K.

    Returns:
        (N, K, P, Q), or one image without N.

    Raises:
        SpecError: shapes, groups and kernel do not fit together.
    """
    _check_shapes(x, weight, bias, groups)
    if x.dim() == 3:
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return grouped_conv2d(x[None], weight, bias, **options)[0]
    spec = ConvSpec(x.shape[1], weight.shape[0], weight.shape[2:], stride, 0, dilation, bias is not None)
    x, spec = _padded(x, padding, spec)
    spec.output_size(x.shape[2:])
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    problem = Problem(spec, groups, x.shape[0], tuple(x.shape[2:]), x.dtype, x.device, needs_grad)
    return _choose(problem).compute(x, weight, bias, spec, groups)


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    if x.dim() not in (3, 4):
        raise SpecError("x.shape", tuple(x.shape), "(images, channels, height, width), or an image of it")
    if weight.dim() != 4:
        raise SpecError(
            "weight.shape", tuple(weight.shape), "(out_channels, in_channels / groups, height, width)"
        )
    in_channels = x.shape[-3]
    for name, channels in (("in_channels", in_channels), ("out_channels", weight.shape[0])):
        if groups < 1 or channels % groups:
            raise SpecError("groups", groups, f"a divisor of {name}={channels}")
    if weight.shape[1] * groups != in_channels:
        raise SpecError("weight.shape[1]", weight.shape[1], f"in_channels / groups = {in_channels // groups}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise SpecError(
            "bias.shape", tuple(bias.shape), f"one number per output channel: {tuple(weight.shape[:1])}"
        )


def _padded(x: Tensor, padding: Any, spec: ConvSpec) -> tuple[Tensor, ConvSpec]:
    """Return the image and the spec with its padding, or the image padded where a spec cannot say how."""
    if not isinstance(padding, str):
        spec = replace(spec, padding=padding)
        height, width = spec.padding
        if min(height, width) >= 0:
            return x, spec
        spec.output_size(x.shape[2:])
        return F.pad(x, (width, width, height, height)), replace(spec, padding=(0, 0))
    if padding == "valid":
        return x, spec
    if padding != "same":
        raise SpecError("padding", padding, "a number, a (height, width) pair, 'same' or 'valid'")
    if spec.stride != (1, 1):
        raise SpecError("padding", padding, f"numbers with stride {spec.stride}", "'same' is for stride 1")
    height, width = (d * (k - 1) for d, k in zip(spec.dilation, spec.kernel_size, strict=True))
    if height % 2 == width % 2 == 0:
        return x, replace(spec, padding=(height // 2, width // 2))
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)), spec


def _choose(problem: Problem) -> Backend:
    name = _chosen.get()
    if name is not None:
        reason = BACKENDS[name].why_not(problem)
        if reason:
            raise ParameterError("backend", name, "one that can compute this problem", reason)
        return BACKENDS[name]
    return next(b for b in BACKENDS.values() if b.why_not(problem) is None)
