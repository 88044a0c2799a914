"""Attention (arXiv:1706.03762): pixels of an image look at pixels of another one, by heads and windows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from regroup.kernels.problems.base import Problem, Shape
from regroup.kernels.problems.view import View

_NOTHING = View.vector(0)


@dataclass(frozen=True)
class Tokens:
    """Which pixels of an image look at one another: those of a window.

    Pixel number `windows[w] + pixels[n]`, row by row, is token `n` of window `w`.
    """

    windows: tuple[int, ...]
    pixels: tuple[int, ...]

    @classmethod
    def all_of(cls, height: int, width: int) -> Tokens:
        """Return all pixels, in one window."""
        return cls((0,), tuple(range(height * width)))


@dataclass(frozen=True)
class Attention(Problem):
    """`y[n] = sum over m of softmax over m (scale * x[n] . keys[m] + bias[n, m]) * values[m]`.

    For each head, whose channels follow one another, and each window by itself.

    Attributes:
        keys: an image of as many channels as `x`, or of one head's, which all heads share.
        values: an image of the size of the keys; so many heads, too.
        heads: of `x` and of `y`.
        scale: of the products.
        queries: pixels of `x`, and of `y`.
        tokens: pixels of the keys and values; as many windows.
        bias: shape of what is added, (1 or windows, 1 or heads, queries, keys); () is nothing.
        safe: a query whose scores are all minus infinity gives 0, not NaN.
    """

    keys: View = _NOTHING
    values: View = _NOTHING
    heads: int = 1
    scale: float = 1.0
    queries: Tokens = Tokens((0,), (0,))
    tokens: Tokens = Tokens((0,), (0,))
    bias: Shape = ()
    safe: bool = False

    @property
    def views(self) -> tuple[View, ...]:
        """Queries, keys, values, the result."""
        return (self.x, self.keys, self.values, self.y)

    @property
    def view_names(self) -> tuple[str, ...]:
        """In the order of `views`."""
        return ("x", "keys", "values", "y")

    @property
    def parameters(self) -> dict[str, Shape]:
        """What is added to the products, if anything is."""
        return {"bias": self.bias} if self.bias else {}

    @property
    def depth(self) -> int:
        """Channels of a head of the queries and keys."""
        return self.x.channels // self.heads

    @property
    def width(self) -> int:
        """Channels of a head of the values."""
        return self.y.channels // self.heads

    @property
    def macs(self) -> int:
        """Of both products."""
        pairs = prod(map(len, (self.queries.windows, self.queries.pixels, self.tokens.pixels)))
        return pairs * (self.x.channels + self.y.channels)
