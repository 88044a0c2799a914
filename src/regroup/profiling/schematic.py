"""The schematic of a module: its wiring, reduced to what a picture of it shows.

>>> from regroup.ops.order import ChannelShuffle
>>> from regroup.profiling.wiring import wiring
>>> layer = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.BatchNorm2d(4), nn.ReLU(), ChannelShuffle(2))
>>> found = schematic(wiring(layer, torch.zeros(1, 4, 8, 8)))
>>> [(part.kind, part.label) for row in found.rows for part in row]
[('input', ''), ('convolution', '1x1, 2 groups'), ('order', 'shuffle, 2 groups')]

What leaves every channel by itself and in its place (norms, activations, concatenations, slices) is no part
of a picture; sums, poolings and resizings are marks on what leads into them, where nothing else reads what
lies between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from regroup.profiling.captions import kind_of, label_of
from regroup.profiling.wiring import Node, Step, Wire, Wiring


@dataclass(eq=False)
class Link:
    """How one part goes into another.

    Args:
        source: the part that is read.
        matrix: bool (channels of the target, channels of the source).
        label: what is done on the way.
        step: number of the operator; links of one belong together.
        lost: bool as the matrix, a table for each stage that is over: what training has dropped there.
    """

    source: Part
    matrix: Tensor
    label: str
    step: int
    lost: list[Tensor] = field(default_factory=list)

    @property
    def single(self) -> bool:
        """Whether no channel goes to two, and none comes from two."""
        return int(self.matrix.sum(0).max()) <= 1 and int(self.matrix.sum(1).max()) <= 1

    @property
    def picks(self) -> bool:
        """Whether no channel comes from two: a gather may take one twice."""
        return int(self.matrix.sum(1).max()) <= 1

    @property
    def straight(self) -> bool:
        """Whether each channel goes to one, in the same order."""
        places = self.matrix.nonzero()[:, 1]
        return self.single and bool((places.diff() > 0).all())


@dataclass(eq=False)
class Part:
    """Channels that one operator gave: dots side by side.

    Args:
        kind: "input", "convolution", "order", "pool", "resize", "sum", "kept", or another operator's name.
        label: what the operator does.
        size: height and width of its maps.
        channels: their numbers within the tensor.
        links: what they come from.
        row: counted from the inputs.
        whole: how many channels the tensor has, of which these are all or some.
        groups: of each channel, where something else than its connections says it; None: of several.
    """

    kind: str
    label: str
    size: tuple[int, ...]
    channels: list[int]
    links: list[Link] = field(default_factory=list)
    row: int = 0
    whole: int = 0
    groups: list[int | None] | None = None

    def __post_init__(self) -> None:
        self.whole = self.whole or len(self.channels)


def steps_of(part: Part) -> list[list[Link]]:
    """Return the links of a part, those of one operator together."""
    found: dict[int, list[Link]] = {}
    for link in part.links:
        found.setdefault(link.step, []).append(link)
    return list(found.values())


@dataclass
class Schematic:
    """Parts in rows from the inputs to the outputs, each row from left to right."""

    rows: list[list[Part]]
    sized: bool = True
    """Whether sizes are those in truth, or those of a part of the image."""

    @property
    def parts(self) -> list[Part]:
        """All of them, row by row."""
        return [part for row in self.rows for part in row]

    def reach(self) -> Tensor:
        """Return which inputs each output depends on: bool (outputs, inputs), both from left to right."""
        inputs = self.rows[0]
        total = sum(len(part.channels) for part in inputs)
        found: dict[int, Tensor] = {}
        for part in self.parts:
            if part in inputs:
                first = sum(len(found[id(p)]) for p in inputs if id(p) in found)
                found[id(part)] = torch.eye(total)[first : first + len(part.channels)]
            else:
                ways = [link.matrix.float() @ found[id(link.source)] for link in part.links]
                found[id(part)] = (torch.stack(ways).sum(0) > 0).float()
        return torch.cat([found[id(part)] for part in self.rows[-1]]) > 0


def schematic(found: Wiring, scale: int | None = 1) -> Schematic:
    """Return the schematic of a wiring.

    Args:
        found: the wiring of a module.
        scale: by how much larger the maps are in truth than those that it was found with; None: by no whole
            number.
    """
    made = _Reduction()
    for node in found.inputs:
        made.add(node, Part("input", "", node.size, list(range(node.channels))))
    for number, step in enumerate(found.steps):
        made.follow(number, step)
    outputs = [made.dots[node.number] for node in found.outputs]
    parts = _fold(_alive(made.parts, outputs), {part for dots in outputs for part, _ in dots})
    for part in parts:
        part.size = part.size if set(part.size) == {1} else tuple((scale or 1) * n for n in part.size)
    return Schematic(_in_rows(parts, outputs), scale is not None)


def components(links: Sequence[Link]) -> tuple[list[int], list[list[int]]]:
    """Return the groups in which links of one part hang together: of each target, of each link's sources.

    Groups are numbered by their first source; a channel that is linked to nothing has the number -1.
    """
    whole = torch.cat([link.matrix for link in links], 1)
    outs, ins = whole.shape
    graph = torch.zeros(ins + outs, ins + outs, dtype=torch.bool)
    graph[:ins, ins:] = whole.t()
    labels = connected_components(csr_array(graph.numpy()), directed=False)[1].tolist()
    linked = [*whole.any(0).tolist(), *whole.any(1).tolist()]
    numbers: dict[int, int] = {}
    found = [numbers.setdefault(n, len(numbers)) if on else -1 for n, on in zip(labels, linked, strict=True)]
    cuts = [0, *accumulate(link.matrix.shape[1] for link in links)]
    return found[ins:], [found[a:b] for a, b in pairwise(cuts)]


Dot = tuple[Part, int]
"""A channel of a part, by its place in it."""


class _Reduction:
    """Which dots stand for the channels of each tensor, operator by operator."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.dots: dict[int, list[Dot]] = {}

    def add(self, node: Node, part: Part) -> None:
        """Give each channel of a tensor a dot of its own."""
        self.parts.append(part)
        self.dots[node.number] = [(part, place) for place in range(node.channels)]

    def follow(self, number: int, step: Step) -> None:
        """Give the channels of a step's target the dots of its sources, if they are the same; or new ones."""
        kind, target = kind_of(step), step.target
        wires = [wire for wire in step.wires if wire.source.number in self.dots and wire.relation.any()]
        if step.operator == "convolution":  # what decides its weights is not drawn
            wires = [wire for wire in wires if wire.source.size == step.arguments["input"][2:]]
        if not wires:
            return  # constants that take their shape alone
        whole = [wire for wire in wires if math.prod(wire.source.size) == math.prod(target.size)]
        if kind == "product" and 0 < len(whole) < len(wires):
            self._gate(target, whole[0])
            return
        relation = torch.cat([wire.relation for wire in wires], 1)
        dots = [dot for wire in wires for dot in self.dots[wire.source.number]]
        moved = bool((relation.sum(1) == 1).all()) and kind not in ("convolution", "pool")
        same_size = all(wire.source.size == target.size for wire in wires)
        framed = step.operator == "constant_pad_nd"
        if moved and (same_size or framed):
            taken = [dots[i] for i in relation.int().argmax(1).tolist()]
            if _in_place(taken):
                self.dots[target.number] = taken
                return
        if kind == "other" and moved:
            kind = "order" if same_size else "resize"
        label = label_of(step, kind, relation)
        part = Part(kind, label, target.size, list(range(target.channels)))
        part.links = list(_links(relation, dots, label, number))
        self.add(target, part)

    def _gate(self, target: Node, wire: Wire) -> None:
        """Mark what is multiplied by a number for each channel; what computes that is not drawn."""
        dots = self.dots[wire.source.number]
        self.dots[target.number] = [dots[i] for i in wire.relation.int().argmax(1).tolist()]
        for link in {id(one): one for part, _ in dots for one in part.links}.values():
            link.label += ", gate" if link.label else ""


def _in_place(taken: list[Dot]) -> bool:
    """Tell whether dots stand part after part, and in each in its order."""
    seen: set[int] = set()
    for (part, place), (next_part, next_place) in pairwise(taken):
        if part is next_part:
            if next_place <= place:
                return False
        else:
            seen.add(id(part))
            if id(next_part) in seen:
                return False
    return True


def _links(relation: Tensor, dots: list[Dot], label: str, step: int) -> list[Link]:
    found: dict[int, Link] = {}
    for column, (part, place) in enumerate(dots):
        if id(part) not in found:
            nothing = torch.zeros(len(relation), len(part.channels), dtype=torch.bool)
            found[id(part)] = Link(part, nothing, label, step)
        found[id(part)].matrix[:, place] |= relation[:, column]
    return [link for link in found.values() if link.matrix.any()]


def _fold(parts: list[Part], outputs: set[Part]) -> list[Part]:
    """Make parts between two others marks on the links, where one other alone reads them."""
    changed = True
    while changed:
        changed = False
        for part in parts:
            readers = [(other, link) for other in parts for link in other.links if link.source is part]
            if part.kind == "input" or len(readers) != 1 or part in outputs:
                continue
            reader, link = readers[0]
            last = ("sum", "resize") if part.kind == "convolution" else ("sum",)
            ends = reader.kind in last and link.straight and part.kind != "sum"
            begins = part.kind in ("pool", "resize") and reader.kind == "convolution" and len(part.links) == 1
            if ends or begins:
                _bridge(part, reader, link)
                parts = [other for other in parts if other is not part]
                changed = True
                break
    return parts


def _bridge(part: Part, reader: Part, link: Link) -> None:
    """Let a part read what another, which goes, has read."""
    reader.links.remove(link)
    for own in part.links:
        matrix = (link.matrix.float() @ own.matrix.float()) > 0
        label = ", ".join(word for word in (own.label, link.label) if word not in ("", "+"))
        step = link.step if part.kind in ("pool", "resize") else own.step
        reader.links.append(Link(own.source, matrix, label, step))


def _alive(parts: list[Part], outputs: list[list[Dot]]) -> list[Part]:
    """Return the parts that lead to the outputs."""
    wanted = {id(part) for dots in outputs for part, _ in dots}
    for part in reversed(parts):
        if id(part) in wanted:
            wanted |= {id(link.source) for link in part.links}
    return [part for part in parts if id(part) in wanted or part.kind == "input"]


def _in_rows(parts: list[Part], outputs: list[list[Dot]]) -> list[list[Part]]:
    for part in parts:
        part.row = max((link.source.row + 1 for link in part.links), default=0)
    last = max(part.row for part in parts)
    for dots in outputs:
        for part in {id(part): part for part, _ in dots}.values():
            if part.kind == "pool" and all(link.single for link in part.links):
                part.row = last  # a pooled shortcut stands beside what it is concatenated with
            elif part.row < last:
                used = [place for owner, place in dots if owner is part]
                parts.append(_kept(part, used, last))
    rows: list[list[Part]] = [[] for _ in range(last + 1)]
    for part in [*parts, *_carried(parts)]:
        rows[part.row].append(part)
    _sort(rows, outputs)
    return rows


def _kept(part: Part, used: list[int], row: int) -> Part:
    matrix = torch.zeros(len(used), len(part.channels), dtype=torch.bool)
    matrix[torch.arange(len(used)), torch.tensor(used)] = True
    numbers = [part.channels[place] for place in used]
    return Part("kept", "", part.size, numbers, [Link(part, matrix, "", -1 - id(part))], row)


def _carried(parts: list[Part]) -> list[Part]:
    """Lead channels that are mixed further down through the rows between; return what stands for them."""
    carried: dict[tuple[int, int], Part] = {}
    for part in parts:
        for link in part.links:
            first, used = link.source, link.matrix.any(0).nonzero().flatten().tolist()
            if link.single or part.row == first.row + 1:
                continue
            for row in range(first.row + 1, part.row):
                if (id(link.source), row) not in carried:
                    places = used if link.source is first else list(range(len(link.source.channels)))
                    carried[id(link.source), row] = _kept(link.source, places, row)
                below = carried[id(link.source), row]
                link.matrix = (link.matrix.float() @ below.links[0].matrix.float().t()) > 0
                link.source = below
    return list(carried.values())


def _sort(rows: list[list[Part]], outputs: list[list[Dot]]) -> None:
    """Put the parts of each row into the order of what reads them, from the outputs upwards."""
    place: dict[int, float] = {}
    for number, (part, _) in enumerate(dot for dots in outputs for dot in dots):
        place.setdefault(id(part), number)
    for number, part in enumerate(rows[-1]):
        source = part.links[0].source if part.kind == "kept" else part
        place[id(part)] = place.get(id(part), place.get(id(source), number))
    rows[-1].sort(key=lambda part: place[id(part)])
    for upper, lower in zip(rows[-2::-1], rows[:0:-1], strict=True):
        middles, start = {}, 0
        for part in lower:
            middles[id(part)] = start + len(part.channels) / 2
            start += len(part.channels)
        keys = {}
        for number, part in enumerate(upper):
            below = [middles[id(p)] for p in lower for link in p.links if link.source is part]
            middle = round(sum(below) / len(below), 6) if below else start + number
            keys[id(part)] = middle, _read_at(part)
        upper.sort(key=lambda part: keys[id(part)])


def _read_at(part: Part) -> float:
    """Return the mean place of what a part reads."""
    read = [place for link in part.links for place in link.matrix.any(0).nonzero().flatten().tolist()]
    return sum(read) / max(len(read), 1)
