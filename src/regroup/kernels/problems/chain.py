"""Several problems, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.problems.base import Problem, Shape
from regroup.kernels.problems.view import Halo, View


@dataclass(frozen=True)
class Chain(Problem):
    """Problems that run one after the other, band of rows by band of rows, within a thread's cache.

    The output of each is the input of the next and exists only as a band in a private buffer: the views
    in between give its channels and size, not a place. `x` and `y` are those of the first and last, and must
    not overlap: threads read rows of `x` beside their own.

    Attributes:
        links: convolutions (1x1, depthwise, grouped), pools or pointwise work over whole rows.
        band: rows of `y` that are made at a time; 0 lets the cost model choose.
    """

    links: tuple[Problem, ...] = ()
    band: int = 0

    @property
    def views(self) -> tuple[View, ...]:
        """Views of the links that are places: all but the bands."""
        inner = [view for i, link in enumerate(self.links) for view in link.views[min(i, 1) : -1]]
        return (*inner, self.y)

    @property
    def view_names(self) -> tuple[str, ...]:
        """In the order of `views`: those inside the chain with the link's position."""
        links = enumerate(self.links)
        inner = [name + str(i or "") for i, link in links for name in link.view_names[min(i, 1) : -1]]
        return (*inner, "y")

    @property
    def parameters(self) -> dict[str, Shape]:
        """Parameters of each link, its position before the name: `0.weight`."""
        return {f"{i}.{k}": v for i, link in enumerate(self.links) for k, v in link.parameters.items()}

    @property
    def constants(self) -> tuple[str, ...]:
        """Those of each link."""
        return tuple(f"{i}.{name}" for i, link in enumerate(self.links) for name in link.constants)

    @property
    def macs(self) -> int:
        """The sum over the links."""
        return sum(link.macs for link in self.links)

    @property
    def x_halo(self) -> Halo:
        """The first link's."""
        return self.links[0].x_halo
