"""Labels for the elements of tensors, and what relates them: which can change places without any change.

Every dimension of every parameter gets a label for each of its positions (a *home*). Operators carry labels
along: the channels of a convolution's output are the rows of its weight; a slice has those of its part. A
position of a tensor is a *slot*: a label and a number `sub`, which tells apart what belongs to one label,
such as the pixels of a channel after flatten. Slots of one tensor that are equal hold the same numbers.

An operator that needs two orders to agree (an addition, weights and what they read) adds *edges*. Where
slots stand is a *site*. Labels connected by edges move together: a component. Components with the same
edges and sites, label by label, can change places: if every component's labels take the places of
another's, in all parameters, each operator sees the same as before, in another order, and the result does
not change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from regroup.ops.tags import FIXED, Ints, Tag

_ROUNDS = 2  # neighbours whose looks tell labels of one home in one component apart


@dataclass(frozen=True)
class Home:
    """A dimension of a parameter or buffer, whose positions have labels.

    Args:
        name: of the tensor; "" for what is no parameter, such as zeros that the network makes.
        dim: which dimension.
        groups: 1; of a grouped weight's second dimension the number of groups: its labels are the channels of
            all groups, although the dimension has those of one only.
        first: the label of its first position.
        size: number of positions.
    """

    name: str
    dim: int
    groups: int
    first: int
    size: int


class Labels:
    """All labels of a network, and what relates them."""

    def __init__(self) -> None:
        self.homes: list[Home] = []
        self.count = 0
        self._ids = 0
        self._edges: list[tuple[Ints, ...]] = []
        self._sites: list[tuple[Ints, ...]] = []
        self._pinned: list[Ints] = []
        self.reasons: list[tuple[Ints, str]] = []
        self._bundled: list[Ints] = []

    def home(self, name: str, dim: int, size: int, groups: int = 1) -> Tag:
        """Return new labels for a dimension."""
        self.homes.append(Home(name, dim, groups, self.count, size))
        label = np.arange(self.count, self.count + size)
        self.count += size
        tag = Tag((dim,), label, np.zeros(size, np.int64))
        self.site(tag)
        return tag

    def site(self, tag: Tag) -> None:
        """Note that these slots stand in one place: they can change places only among themselves."""
        self._sites.append(_flat(tag.label, tag.sub, self._new(1)))

    def fix(self, tag: Tag, dim: int, reason: str) -> None:
        """Note that what stands at different positions of `dim` cannot change places."""
        axis = tag.dims.index(dim)
        index = np.arange(tag.label.shape[axis]).reshape(
            [-1 if i == axis else 1 for i in range(tag.label.ndim)]
        )
        self._sites.append(_flat(tag.label, tag.sub, self._new(index.size) + index))
        self.reasons.append((tag.label.ravel(), reason))

    def pin(self, label: Ints, reason: str) -> None:
        """Note that labels cannot move at all. A reason that is "" is not worth telling."""
        self._pinned.append(label.ravel())
        self.reasons.append((label.ravel(), reason))

    def edges(self, a: Tag, b: Tag, reason: str, kind: Ints | int = 0, kinds: int = 1) -> None:
        """Note that two orders agree, position by position; the arrays broadcast.

        Args:
            a: one order.
            b: the other.
            reason: said of labels that meet a position which cannot move.
            kind: tells positions apart that play different parts.
            kinds: how many such there are.
        """
        la, sa, lb, sb, rel = _flat(a.label, a.sub, b.label, b.sub, self._new(kinds) + kind)
        free = (la != FIXED) & (lb != FIXED)
        for label, other in ((la, lb), (lb, la)):
            stuck = label[(label != FIXED) & (other == FIXED)]
            if len(stuck):
                self.pin(stuck, reason)
        self._edges.append((la[free], sa[free], lb[free], sb[free], rel[free]))

    def bundle(self, label: Ints, sub: Ints) -> None:
        """Let each row move as a whole, (groups, width): its labels get edges with the first of the row."""
        kind = np.arange(label.shape[1])[None]
        row = Tag((0,), label[:, :1], sub[:, :1])
        self.edges(row, Tag((0,), label, sub), "", kind, label.shape[1])
        self._bundled.append(label.ravel())

    def _new(self, count: int) -> int:
        self._ids += count
        return self._ids - count

    def cells(self) -> Cells:
        """Return which labels move together, and which of these can change places."""
        return Cells(self)


class Cells:
    """Components of labels, and cells of components that can change places in any way.

    Attributes:
        component: of each label.
        rank: of each label among those of its component in its home.
        cell: of each component; -1 where it cannot change places with any.
        count: number of cells.
        touched: whether a bundle is in a component.
    """

    def __init__(self, labels: Labels) -> None:
        count = labels.count
        edges = _joined(labels._edges, 5)
        sites = _joined(labels._sites, 3)
        sites = sites[:, sites[0] != FIXED]
        home = np.repeat(np.arange(len(labels.homes)), [h.size for h in labels.homes])
        links = coo_array((np.ones(edges.shape[1]), (edges[0], edges[2])), (count, count))
        components, self.component = connected_components(links, directed=False)
        self.rank = _ranks(self.component, home, _colours(home, edges, sites))
        look = _looks(components, self.component, home, self.rank, edges, sites)
        movable = np.ones(components, bool)
        for label in labels._pinned:
            movable[self.component[label[label != FIXED]]] = False
        self.touched = np.zeros(components, bool)
        for label in labels._bundled:
            self.touched[self.component[label[label != FIXED]]] = True
        self.cell = np.full(components, -1)
        _, alike, sizes = np.unique(look, return_inverse=True, return_counts=True)
        sizes = np.bincount(alike, weights=movable, minlength=len(sizes))
        chosen = movable & (sizes[alike] > 1)
        found, self.cell[chosen] = np.unique(alike[chosen], return_inverse=True)
        self.count = len(found)


def _flat(*arrays: Ints | int) -> tuple[Ints, ...]:
    return tuple(np.array(a, np.int64).ravel() for a in np.broadcast_arrays(*arrays))


def _joined(arrays: list[tuple[Ints, ...]], rows: int) -> Ints:
    if not arrays:
        return np.zeros((rows, 0), np.int64)
    return np.concatenate([np.stack(a) for a in arrays], axis=1)


def _hash(*parts: NDArray | int) -> NDArray[np.uint64]:
    """Return 64 well mixed bits of each row of numbers (splitmix64)."""
    result = np.full(1, 0x9E3779B97F4A7C15, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            mixed = result ^ np.asarray(part).astype(np.uint64)
            mixed = (mixed + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            result = mixed ^ (mixed >> np.uint64(31))
    return result


def _colours(home: Ints, edges: Ints, sites: Ints) -> NDArray[np.uint64]:
    """Return what labels look like with their neighbours, to tell apart those of one home and component."""
    colour = _hash(home)
    a, sub_a, b, sub_b, relation = edges
    for _ in range(_ROUNDS):
        seen = np.zeros_like(colour)
        np.add.at(seen, a, _hash(relation, sub_a, sub_b, colour[b], 1))
        np.add.at(seen, b, _hash(relation, sub_b, sub_a, colour[a], 2))
        np.add.at(seen, sites[0], _hash(sites[2], sites[1], 3))
        colour = _hash(colour, seen)
    return colour


def _ranks(component: Ints, home: Ints, colour: NDArray[np.uint64]) -> Ints:
    order = np.lexsort((np.arange(len(home)), colour, home, component))
    group = np.stack([component[order], home[order]])
    new = np.ones(len(order), bool)
    new[1:] = (group[:, 1:] != group[:, :-1]).any(0)
    place = np.arange(len(order))
    rank = np.empty_like(order)
    rank[order] = place - np.maximum.accumulate(np.where(new, place, 0))
    return rank


def _looks(
    count: int, component: Ints, home: Ints, rank: Ints, edges: Ints, sites: Ints
) -> NDArray[np.uint64]:
    """Return a hash of all edges and sites of each component, in terms of homes and ranks."""
    key = _hash(home, rank)
    a, sub_a, b, sub_b, relation = edges
    look = np.zeros(count, np.uint64)
    np.add.at(look, component, _hash(key, 4))
    np.add.at(look, component[a], _hash(relation, key[a], sub_a, key[b], sub_b, 5))
    np.add.at(look, component[sites[0]], _hash(sites[2], key[sites[0]], sites[1], 6))
    return look
