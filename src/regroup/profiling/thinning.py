"""A schematic with fewer channels, chosen so that each way from group to group is still there.

Channels that go through a module one to one are a thread; which groups it passes is its type, and of each
type some threads are kept. So of 240 channels in 3 groups and a shuffle 9 or 18 are left, and each group
still gives to each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from regroup.profiling.schematic import Link, Part, Schematic, components, steps_of

_WIDTH = 4
"""Channels of a group that are kept, where there are many groups."""


def thinned(found: Schematic, most: int) -> Schematic:
    """Return a schematic with at most about `most` channels in a row; the same one if it has no more.

    Each part keeps at least one channel. `Part.channels` says which they are.
    """
    threads = _Threads(found)
    if max(map(len, threads.of_rows())) <= most:
        return found
    alike: dict[frozenset, list[int]] = {}
    for thread, kind in enumerate(threads.types()):
        alike.setdefault(kind, []).append(thread)
    groups = list(alike.values())
    room = [math.inf] * len(groups)
    for row in map(set, threads.of_rows()):
        inside = [i for i, members in enumerate(groups) if not row.isdisjoint(members)]
        for i in inside:
            room[i] = min(room[i], most / len(inside))
    kept, crowded = set[int](), {}
    for (kind, members), n in zip(alike.items(), room, strict=True):
        if n >= 1:
            kept.update(_spread(members, int(n)))
        else:
            crowded[kind] = members
    kept |= _of_some_groups(crowded, most)
    for own in threads.of_parts():
        if kept.isdisjoint(own):
            kept.add(own[0])
    return threads.only(kept)


def _of_some_groups(crowded: dict[frozenset, list[int]], most: int) -> set[int]:
    """Return threads of types that are too many for a row: all of some groups, of where there are most."""
    counts: dict[tuple, set[int]] = {}
    for number, step, side, group in (
        entry for kind in crowded for entry in kind if isinstance(entry, tuple)
    ):
        counts.setdefault((number, step, side), set()).add(group)
    families: dict[tuple, dict[int, list[list[int]]]] = {}
    for kind, members in crowded.items():
        passed = [entry for entry in kind if isinstance(entry, tuple)]
        entry = max(passed, key=lambda entry: len(counts[entry[:3]]), default=(0, 0, "", 0))
        families.setdefault(entry[:3], {}).setdefault(entry[3], []).append(members)
    kept = set()
    for groups in families.values():
        types = max(map(len, groups.values()))
        each = max(1, min(len(members) for own in groups.values() for members in own))
        each = max(1, min(each, _WIDTH // types))
        for group in _spread(sorted(groups), max(1, most // (types * each))):
            kept |= {thread for members in groups[group] for thread in _spread(members, each)}
    return kept


def _spread(items: list, count: int) -> list:
    """Return so many of the items, evenly spread."""
    count = min(count, len(items))
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


class _Threads:
    """The threads of a schematic: the number of that of each dot, part after part."""

    def __init__(self, found: Schematic) -> None:
        self.found, self.parts = found, found.parts
        starts = [0, *accumulate(len(part.channels) for part in self.parts)]
        self.start = dict(zip(map(id, self.parts), starts, strict=False))
        pairs = [pair for part in self.parts for pair in self._pairs(part)]
        ends = torch.tensor(pairs).view(-1, 2).t().numpy()
        graph = coo_array((torch.ones(len(pairs)).numpy(), (ends[0], ends[1])), shape=(starts[-1],) * 2)
        self.numbers = connected_components(graph, directed=False)[1].tolist()

    def _pairs(self, part: Part) -> Iterator[tuple[int, int]]:
        for link in part.links:
            if link.single:
                for target, source in link.matrix.nonzero().tolist():
                    yield self.start[id(part)] + target, self.start[id(link.source)] + source

    def of(self, part: Part) -> list[int]:
        """Return the threads of a part's channels."""
        first = self.start[id(part)]
        return self.numbers[first : first + len(part.channels)]

    def of_parts(self) -> list[list[int]]:
        """Return those of each part."""
        return [self.of(part) for part in self.parts]

    def of_rows(self) -> list[list[int]]:
        """Return those of each row."""
        return [[thread for part in row for thread in self.of(part)] for row in self.found.rows]

    def types(self) -> list[frozenset]:
        """Return, for each thread, the parts that it is in and the groups that it passes."""
        found: list[set] = [set() for _ in range(max(self.numbers) + 1)]
        for number, part in enumerate(self.parts):
            for thread in self.of(part):
                found[thread].add(number)
            for step, links in enumerate(steps_of(part)):
                if all(link.single for link in links):
                    continue
                targets, sources = components(links)
                for thread, group in zip(self.of(part), targets, strict=True):
                    found[thread].add((number, step, "to", group))
                for link, groups in zip(links, sources, strict=True):
                    for thread, group in zip(self.of(link.source), groups, strict=True):
                        found[thread].add((number, step, "from", group))
        return [frozenset(kind) for kind in found]

    def only(self, kept: set[int]) -> Schematic:
        """Return the schematic of some threads."""
        places = {
            id(part): [i for i, thread in enumerate(self.of(part)) if thread in kept] for part in self.parts
        }
        fewer = {
            id(p): Part(p.kind, p.label, p.size, [p.channels[i] for i in places[id(p)]], [], p.row, p.whole)
            for p in self.parts
        }
        for part in self.parts:
            for link in part.links:
                matrix = link.matrix[places[id(part)]][:, places[id(link.source)]]
                if matrix.any():
                    fewer[id(part)].links.append(Link(fewer[id(link.source)], matrix, link.label, link.step))
        rows = [[fewer[id(part)] for part in row] for row in self.found.rows]
        return Schematic(rows, self.found.sized)
