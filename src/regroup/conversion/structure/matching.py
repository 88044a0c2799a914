"""Whether an order of channels can be had by moving channels inside of parts, before it and behind it.

An order lets x = y'[order], where y' may be reordered inside of its parts and x inside of its own. It can
be folded if as many channels go from each part to each other part as would without an order: then x and y'
can be reordered so that nothing is left of it. Parts that are whole groups can change places first.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from regroup.conversion.structure.labels import Cells, Labels
from regroup.ops.tags import FIXED, Ints, Tag


class Moves:
    """An order of all labels, made of components that change places in their cells."""

    def __init__(self, labels: Labels, cells: Cells) -> None:
        self.cells = cells
        self.order = np.arange(labels.count)
        home = np.repeat(np.arange(len(labels.homes)), [h.size for h in labels.homes])
        by = np.lexsort((cells.rank, home, cells.component))
        self._members, self._first = by, np.searchsorted(cells.component[by], np.arange(len(cells.cell) + 1))

    def put(self, tag: Tag, new: Ints) -> None:
        """Let position i of a tag have what was at position new[i], and all that moves with it."""
        component = np.where(tag.label == FIXED, FIXED, self.cells.component[tag.label])
        for to, fro in np.unique(np.stack([component, component[new]]), axis=1).T:
            if to != fro:
                self.order[self._of(to)] = self._of(fro)

    def _of(self, component: int) -> Ints:
        return self._members[self._first[component] : self._first[component + 1]]


def placed(tag: Tag, order: Ints) -> Ints:
    """Return, of each position of a tag, the one whose slot it has when labels are reordered."""
    place = {slot: i for i, slot in enumerate(zip(tag.label.tolist(), tag.sub.tolist(), strict=True))}
    new = np.where(tag.label == FIXED, FIXED, order[tag.label])
    return np.array([place[slot] for slot in zip(new.tolist(), tag.sub.tolist(), strict=True)])


def parts_of(side: Tag | None, other: Tag | None, cells: Cells, channels: int) -> Ints:
    """Return, of each position, the part inside of which it moves alone; one of its own where it cannot."""
    alone = np.arange(channels)
    if side is None:
        return alone
    component = np.where(side.label == FIXED, FIXED, cells.component[side.label])
    times = Counter(component.tolist())
    beyond = set() if other is None else set(cells.component[other.label[other.label != FIXED]].tolist())
    cell = np.where(component == FIXED, FIXED, cells.cell[component])
    tied = {c for c, number in times.items() if number > 1 and c != FIXED}
    shared = {int(cells.cell[c]) for c in beyond | tied}
    free = (cell != FIXED) & ~np.isin(cell, list(shared))
    return np.where(free, channels + cell, alone)


def counts(order: Ints, before: Ints, behind: Ints) -> Ints:
    """Return how many channels go from which part to which: (parts before, parts behind)."""
    rows, columns = np.unique(before, return_inverse=True)[1], np.unique(behind, return_inverse=True)[1]
    result = np.zeros((rows.max() + 1, columns.max() + 1), np.int64)
    np.add.at(result, (rows[order], columns), 1)
    return result


def balanced(order: Ints, before: Ints, behind: Ints) -> bool:
    """Tell whether channels have to move inside of their parts only."""
    return bool((counts(order, before, behind) == counts(np.arange(len(order)), before, behind)).all())


def classes(side: Tag | None, other: Tag | None, parts: Ints, cells: Cells) -> Ints:
    """Return which parts are whole groups that can change places: those of one class."""
    kinds = np.unique(parts)
    result = -1 - np.arange(len(kinds))
    if side is None:
        return result
    component = np.where(side.label == FIXED, FIXED, cells.component[side.label])
    beyond = (
        set()
        if other is None
        else set(cells.cell[cells.component[other.label[other.label != FIXED]]].tolist())
    )
    for i, kind in enumerate(kinds):
        here = np.unique(component[parts == kind])
        if len(here) == 1 and here[0] != FIXED and (component == here[0]).sum() == (parts == kind).sum():
            cell = cells.cell[here[0]]
            if cell >= 0 and cell not in beyond:
                result[i] = cell
    return result


def matched(now: Ints, wanted: Ints, classes: Ints) -> Ints | None:
    """Return for each row that is wanted one that there is, of its class, each once; or None."""
    free: dict[tuple, list[int]] = {}
    for i, row in reversed(list(enumerate(now))):
        free.setdefault((classes[i], *row), []).append(i)
    result = []
    for i, row in enumerate(wanted):
        found = free.get((classes[i], *row))
        if not found:
            return None
        result.append(found.pop())
    return np.array(result)


def blocks(parts: Ints, places: Ints) -> Ints:
    """Return the order of channels when whole parts change places."""
    kinds = np.unique(parts)
    new = np.empty(len(parts), np.int64)
    for i, place in enumerate(places):
        new[parts == kinds[i]] = np.flatnonzero(parts == kinds[place])
    return new


def blocked(before: Ints, behind: Ints) -> str:
    """Say why an order cannot be had."""
    fixed = [len(np.unique(parts)) == len(parts) for parts in (before, behind)]
    if all(fixed):
        return "neither what enters it nor what leaves it can be reordered"
    return "it brings channels of one group into several groups, which no order of weights does"
