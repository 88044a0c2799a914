"""Random convolutions in groups, of one to three dimensions, and their definition once more, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch.nn import functional as F

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "offset", "expanded")
ATEN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Case:
    """A convolution without numbers."""

    groups: int
    width_in: int
    width_out: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    images: int
    size: tuple[int, ...]
    bias: bool

    @property
    def rank(self):
        return len(self.size)

    @property
    def sizes(self):
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def out(self):
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )

    def tensors(self, integers=False, dtype=torch.float32):
        """Return x, weight and bias."""
        x = (self.images, self.groups * self.width_in, *self.size)
        weight = (self.groups * self.width_out, self.width_in, *self.kernel)
        made = [torch.randint(-3, 4, s) if integers else torch.randn(s) for s in (x, weight, weight[:1])]
        x, weight, bias = (t.to(dtype) for t in made)
        return x, weight, bias if self.bias else None


@st.composite
def cases(draw, bias=None):
    """Draw convolutions that fit their images; groups and widths on which libraries have been wrong, too."""
    rank = draw(st.sampled_from((1, 2, 2, 3)))
    groups = draw(st.sampled_from((1, 2, 3, 5, 8, 24, 25, 48)))
    widths = st.sampled_from((1, 1, 2, 3, 4, 5))

    def some(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * rank))

    case = Case(
        groups,
        draw(widths),
        draw(widths),
        some(1, {1: 9, 2: 5, 3: 3}[rank]),
        some(1, 3),
        some(0, 3),
        some(1, 3),
        draw(st.integers(1, 3)),
        some(1, {1: 40, 2: 12, 3: 6}[rank]),
        draw(st.booleans()) if bias is None else bias,
    )
    assume(min(case.out) >= 1)
    return case


def lay_out(x, layout):
    """Return a tensor equal to `x` (N, C, *size) whose memory is arranged otherwise."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "sliced":
        larger = x.new_full([n + 2 for n in x.shape], float("nan"))
        inner = larger[(slice(1, -1),) * x.dim()]
        inner.copy_(x)
        return inner
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "offset":
        flat = x.new_full((x.numel() + 1,), float("nan"))
        flat[1:] = x.reshape(-1)
        return flat[1:].view_as(x)
    if layout == "expanded" and len(x) > 1:
        x.copy_(x[:1].expand_as(x))
        return x[:1].clone().expand_as(x)
    return x.contiguous()


def definition(x, weight, bias, case):
    """Return the convolution in numpy: a sum over kernel taps of products over a group's channels."""
    x, weight = x.detach().double().numpy(), weight.detach().double().numpy()
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in case.padding)))
    x_groups = padded.reshape(len(x), case.groups, -1, *padded.shape[2:])
    w_groups = weight.reshape(case.groups, -1, *weight.shape[1:])
    y = np.zeros((len(x), case.groups, case.width_out, *case.out))
    for tap in np.ndindex(*case.kernel):
        window = x_groups[
            (
                ...,
                *(slice(t * d, t * d + s * (o - 1) + 1, s) for t, d, s, o in zip(
                    tap, case.dilation, case.stride, case.out, strict=True
                )),
            )
        ]  # fmt: skip
        y += np.einsum("ngc...,gkc->ngk...", window, w_groups[(..., *tap)])
    y = torch.from_numpy(y.reshape(len(x), -1, *case.out))
    return y if bias is None else y + bias.detach().double().view(-1, *(1,) * case.rank)


def gradients(x, weight, g, case):
    """Return the gradients of input and weight in float64, each group through a dense convolution."""
    x, weight = (t.detach().double().requires_grad_() for t in (x, weight))
    parts = zip(x.chunk(case.groups, 1), weight.chunk(case.groups), strict=True)
    conv = ATEN[case.rank]
    y = torch.cat([conv(a, b, None, case.stride, case.padding, case.dilation) for a, b in parts], 1)
    return torch.autograd.grad(y, (x, weight), g.double())
