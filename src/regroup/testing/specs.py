"""The convolutions that strategies are tried on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regroup.spec import ConvSpec, Extent
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
    ConvSpec(16, 32, 7, stride=2, padding=3, dims=1),
    ConvSpec(24, 24, 5, padding=((8, 0),), dilation=2, bias=True),
    ConvSpec(16, 16, 3, padding=1, dims=3),
    ConvSpec(16, 24, (3, 1, 2), stride=(1, 2, 1), padding=((2, 0), 0, (0, 1)), bias=True),
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
    ConvSpec(12, 8, 4, padding=((2, -1),), dims=1),
    ConvSpec(7, 6, (2, 1, 3), stride=(1, 3, 2), padding=(1, -1, 0), dilation=(2, 1, 1)),
)
"""What few strategies can do: refusing is right, failing is not."""


def conv_specs() -> SearchStrategy[ConvSpec]:
    """Return hypothesis' generator of small convolutions of every kind."""
    from hypothesis import strategies as st

    channels = st.sampled_from((1, 3, 4, 7, 8, 12, 16, 24, 32))

    def of(dims: int) -> SearchStrategy[ConvSpec]:
        def some(low: int, high: int) -> SearchStrategy[tuple[int, ...]]:
            return st.tuples(*[st.integers(low, high)] * dims)

        sides = some(-1, 3)
        return st.builds(
            ConvSpec,
            channels,
            channels,
            kernel_size=some(1, 5 if dims < 3 else 3),
            stride=some(1, 3),
            padding=st.one_of(
                sides, st.tuples(sides, sides).map(lambda pair: tuple(zip(*pair, strict=True)))
            ),
            dilation=some(1, 2),
            bias=st.booleans(),
        )

    return st.sampled_from((2, 2, 1, 3)).flatmap(of)


def sizes(spec: ConvSpec) -> list[Extent]:
    """Return input sizes to try a convolution on: usual, odd, and as small as one output pixel."""
    usual = sample_size(spec)
    axes = zip(spec.span, spec.before, spec.after, strict=True)
    least = tuple(max(1, span + 1 - before - after) for span, before, after in axes)
    odd = tuple(n + more for n, more in zip(usual, (3, 6, 1), strict=False))
    return [usual, odd, least]
