"""Random grouped convolutions."""

from hypothesis import assume
from hypothesis import strategies as st

from regroup.spec import ConvSpec


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
