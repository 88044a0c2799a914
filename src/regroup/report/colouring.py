"""Which colour each channel of a picture has, and where one group of them ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from regroup.profiling.schematic import Link, Part, Schematic, components, steps_of

Colour = int | None
"""The number of a colour, or none: made of everything."""
_SINGLE = 24
"""Depthwise channels that get a colour each."""


@dataclass
class Colours:
    """By part (its id): the colour of each channel, and the group in which it is drawn."""

    of: dict[int, list[Colour]] = field(default_factory=dict)
    blocks: dict[int, list[tuple]] = field(default_factory=dict)


def colours(found: Schematic) -> Colours:
    """Return the colours of a schematic: of the groups that channels come from, or else go into."""
    result = Colours()
    for row in found.rows:
        for part in row:
            if part.groups is not None:
                result.of[id(part)] = part.groups
                continue
            own = _ahead(part, found) if _gathers(part) else []
            own = own if any(c is not None for c in own) else _behind(part, row, result)
            result.of[id(part)] = own if any(c is not None for c in own) else _ahead(part, found)
    for part in found.parts:
        if part.groups is not None:
            runs = part.groups == sorted(part.groups, key=lambda group: -1 if group is None else group)
            result.blocks[id(part)] = [(group,) if runs else () for group in part.groups]
            continue
        result.blocks[id(part)] = _blocks(part, found)
        several = {*result.of[id(part)]}
        runs = sum(a != b for a, b in pairwise(result.of[id(part)])) + 1
        if part.row == 0 and 1 < len(several) < len(part.channels) and runs == len(several):
            result.blocks[id(part)] = [(colour,) for colour in result.of[id(part)]]
    return result


def _gathers(part: Part) -> bool:
    """Return whether channels are picked, some of them twice: each copy is of the group that reads it."""
    return bool(part.links) and all(x.picks for x in part.links) and not all(x.single for x in part.links)


def _readers(part: Part, found: Schematic) -> list[tuple[Part, list[Link]]]:
    """Return what reads a part, a step at a time."""
    return [
        (other, links)
        for other in found.parts
        for links in steps_of(other)
        if any(link.source is part for link in links)
    ]


def _grouped(part: Part, links: Sequence[Link]) -> tuple[list[int], list[list[int]]] | None:
    """Return the groups of a convolution: of its outputs, and of each link's channels; None if it has one."""
    targets, sources = components(links)
    groups = {n for n in targets if n >= 0}
    mixes = part.kind == "convolution" or not all(link.picks for link in links)
    return (targets, sources) if len(groups) > 1 and mixes else None


def _ahead(part: Part, found: Schematic) -> list[Colour]:
    """Return the colours of the groups that will read the channels, further down if need be."""
    nothing: list[Colour] = [None] * len(part.channels)
    readers = _readers(part, found)
    for reader, links in readers:
        if (groups := _grouped(reader, links)) is None:
            continue
        own = next(g for link, g in zip(links, groups[1], strict=True) if link.source is part)
        linked = [n for n in own if n >= 0]
        if len(set(linked)) < len(linked):
            return [n if n >= 0 else None for n in own]
    branches = _by_reader(part, readers, found)
    if any(colour is not None for colour in branches):
        return branches
    for reader, links in readers:
        link = next(link for link in links if link.source is part)
        if not link.picks or reader.kind == "sum":
            continue
        further, into = _ahead(reader, found), [set[Colour]() for _ in nothing]
        for target, source in link.matrix.nonzero().tolist():
            into[source].add(further[target])
        colours = [next(iter(own)) if len(own) == 1 else None for own in into]
        if any(c is not None for c in colours):
            return colours
        if reader.kind == "convolution" and len(part.channels) <= _SINGLE:
            return list(range(len(part.channels)))
    return nothing


def _by_reader(part: Part, readers: list[tuple[Part, list[Link]]], found: Schematic) -> list[Colour]:
    """Return the number of the one part that reads each channel, where there are several such."""
    numbers: list[Colour] = [None] * len(part.channels)
    for order, (reader, links) in enumerate(readers):
        siblings = _branches(found.rows[reader.row])
        number = siblings.index(reader) if reader in siblings and len(siblings) > 1 else order
        for link in (link for link in links if link.source is part):
            for place in link.matrix.any(0).nonzero().flatten().tolist():
                if reader.row != part.row + 1 or numbers[place] is not None:
                    return [None] * len(part.channels)
                numbers[place] = number
    return numbers if len({n for n in numbers if n is not None}) > 1 else [None] * len(part.channels)


def _branches(row: Sequence[Part]) -> list[Part]:
    return [part for part in row if part.kind not in ("kept", "order", "input", "pool")]


def _behind(part: Part, row: Sequence[Part], known: Colours) -> list[Colour]:
    """Return the colours of what the channels are made of: the same, or those of new groups."""
    inherited: list[Colour] = [None] * len(part.channels)
    for link in part.links:
        if link.picks:
            own = known.of[id(link.source)]
            for target, source in link.matrix.nonzero().tolist():
                inherited[target] = own[source] if inherited[target] is None else inherited[target]
    mixing = [links for links in steps_of(part) if not all(link.picks for link in links)]
    siblings = _branches(row)
    if not mixing:
        alone = all(c is None for c in inherited) and part in siblings and len(siblings) > 1
        return [siblings.index(part)] * len(part.channels) if alone else inherited
    groups = _grouped(part, [link for links in mixing for link in links])
    if groups is not None:
        return [n if n >= 0 else None for n in groups[0]]
    if len(alike := _alike(mixing)) == len(part.channels):
        return alike
    sources = {c for links in mixing for link in links for c in known.of[id(link.source)]}
    if len(sources) == 1:
        (only,) = sources
        if only is not None:
            return [only] * len(part.channels)
    return [siblings.index(part) if len(siblings) > 1 else None] * len(part.channels)


def _alike(steps: list[list[Link]]) -> list[Colour]:
    """Return the number of the set of inputs that each channel reads, where few sets are shared.

    Groups that are learned overlap, and hang together as a whole.
    """
    rows = [tuple(row) for row in torch.cat([link.matrix for links in steps for link in links], 1).tolist()]
    numbers: dict[tuple, int] = {}
    found: list[Colour] = [numbers.setdefault(row, len(numbers)) for row in rows]
    return found if 1 < len(numbers) <= len(rows) // 2 else []


def _blocks(part: Part, found: Schematic) -> list[tuple]:
    """Return the groups that each channel is in, as a source and as a target."""
    keys: list[list[int]] = [[] for _ in part.channels]
    for links in steps_of(part):
        if (groups := _grouped(part, links)) is not None and len(set(groups[0])) < len(part.channels):
            for key, group in zip(keys, groups[0], strict=True):
                key.append(group)
    for reader, links in _readers(part, found):
        groups = _grouped(reader, links)
        for link, own in zip(links, groups[1] if groups else (), strict=False):
            if link.source is part and len(set(own)) < len(own):
                for key, group in zip(keys, own, strict=True):
                    key.append(group)
    return [tuple(key) for key in keys]
