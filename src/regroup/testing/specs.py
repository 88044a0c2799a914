"""The convolutions that strategies are tried on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regroup.spec import ConvSpec, Size
from regroup.strategies import sample_size

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

SPECS = (
    ConvSpec(16, 16, 3, padding=1),
    ConvSpec(16, 32, 3, stride=2, padding=1),
    ConvSpec(32, 16, 1),
    ConvSpec(16, 32, 1, stride=2),
    ConvSpec(24, 24, 3, padding=2, dilation=2, bias=True),
    ConvSpec(16, 16, 5, padding=2),
    ConvSpec(32, 24, (5, 3), stride=(1, 2), padding=(2, 1)),
    ConvSpec(16, 16, 3, padding=0, bias=True),
    ConvSpec(16, 16, (1, 7), padding=(0, 3)),
    ConvSpec(16, 32, 2, stride=2),
    ConvSpec(16, 16, 3, padding=-1),
)
"""What a strategy is tried on: it must do each of these, or refuse it."""

ODD_SPECS = (
    ConvSpec(1, 1, 1),
    ConvSpec(1, 7, 3, padding=1),
    ConvSpec(7, 1, 3, padding=1),
    ConvSpec(7, 11, 3, stride=3, padding=1, bias=True),
    ConvSpec(3, 16, 3, padding=1),
    ConvSpec(6, 10, (2, 3), stride=(3, 1), padding=(1, 0), dilation=(1, 2)),
    ConvSpec(12, 18, 4, padding=1),
    ConvSpec(8, 8, 9, stride=2, padding=4),
)
"""What few strategies can do: refusing is right, failing is not."""


def conv_specs() -> SearchStrategy[ConvSpec]:
    """Return hypothesis' generator of small convolutions of every kind."""
    from hypothesis import strategies as st

    channels = st.sampled_from((1, 3, 4, 7, 8, 12, 16, 24, 32))

    def pairs(low: int, high: int) -> SearchStrategy[tuple[int, int]]:
        return st.tuples(st.integers(low, high), st.integers(low, high))

    return st.builds(
        ConvSpec,
        channels,
        channels,
        kernel_size=pairs(1, 5),
        stride=pairs(1, 3),
        padding=pairs(-1, 3),
        dilation=pairs(1, 2),
        bias=st.booleans(),
    )


def sizes(spec: ConvSpec) -> list[Size]:
    """Return input sizes to try a convolution on: usual, odd, and as small as one output pixel."""
    height, width = sample_size(spec)
    axes = zip(spec.kernel_size, spec.padding, spec.dilation, strict=True)
    least_height, least_width = (max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in axes)
    return [(height, width), (height + 3, width + 6), (least_height, least_width)]
