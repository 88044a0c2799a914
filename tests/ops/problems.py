"""Random grouped convolutions, and their definition written once more, in numpy."""

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st

from regroup.spec import ConvSpec

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "offset")


@st.composite
def problems(draw, bias=None):
    """Draw (spec, groups, images, size) that fit together."""
    groups = draw(st.sampled_from((1, 1, 2, 3, 4, 5, 8)))
    width_in, width_out = draw(st.integers(1, 5)), draw(st.integers(1, 5))

    def pair(low, high):
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    with_bias = draw(st.booleans()) if bias is None else bias
    spec = ConvSpec(
        groups * width_in, groups * width_out, pair(1, 5), pair(1, 3), pair(0, 3), pair(1, 3), with_bias
    )
    size = pair(1, 9)
    axes = zip(size, spec.kernel_size, spec.padding, spec.dilation, strict=True)
    assume(all(n + 2 * p >= d * (k - 1) + 1 for n, k, p, d in axes))
    return spec, groups, draw(st.integers(1, 3)), size


def lay_out(x, layout):
    """Return a tensor equal to `x` (N, C, H, W) whose memory is arranged otherwise."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        larger = x.new_full([n + 2 for n in x.shape], float("nan"))
        inner = larger[1:-1, 1:-1, 1:-1, 1:-1]
        inner.copy_(x)
        return inner
    if layout == "transposed":
        return x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    if layout == "offset":
        flat = x.new_full((x.numel() + 1,), float("nan"))
        flat[1:] = x.reshape(-1)
        return flat[1:].view_as(x)
    return x.contiguous()


def definition(x, weight, bias, spec, groups):
    """Return the grouped convolution in numpy: a sum over kernel taps of products over a group's channels."""
    x, weight = x.double().numpy(), weight.double().numpy()
    (rows, columns), (top, left) = spec.kernel_size, spec.padding
    height, width = spec.output_size(x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    x_groups = padded.reshape(len(x), groups, -1, *padded.shape[2:])
    w_groups = weight.reshape(groups, -1, *weight.shape[1:])
    y = np.zeros((len(x), groups, w_groups.shape[1], height, width))
    for r in range(rows):
        for s in range(columns):
            down, right = r * spec.dilation[0], s * spec.dilation[1]
            window = x_groups[..., down :: spec.stride[0], right :: spec.stride[1]][..., :height, :width]
            y += np.einsum("ngcpq,gkc->ngkpq", window, w_groups[..., r, s])
    y = y.reshape(len(x), -1, height, width)
    return torch.from_numpy(y if bias is None else y + bias.double().numpy()[:, None, None])
