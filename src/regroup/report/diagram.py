"""Where everything stands in the picture of a schematic: dots, lines, shortcuts and words, in pixels.

Rows run downwards from the inputs to the outputs. Each dot is a channel. What a convolution with several
groups gives has a colour for each group, and keeps it while channels change places; grey is what a
convolution has made of everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from regroup.profiling.schematic import Link, Part, Schematic, steps_of
from regroup.report.colouring import colours
from regroup.report.shapes import SMALL, Diagram, Dot, Line, Rail, Words, width_of

_PITCH, _GAP, _APART = 17.0, 9.0, 26.0
"""From dot to dot, more between groups, and more between parts."""


def diagram(found: Schematic, labelled: bool = True) -> Diagram:
    """Return the picture of a schematic.

    Args:
        found: what to draw.
        labelled: with words at its sides: what is done, and how many channels there are.
    """
    return _Layout(found).drawn(labelled)


class _Layout:
    """The places of all dots, and what is drawn between them."""

    def __init__(self, found: Schematic) -> None:
        self.found, self.colours = found, colours(found)
        self.largest = max((math.prod(part.size) for part in found.parts), default=1)
        self.rails = [
            (part, link)
            for part in found.parts
            for link in part.links
            if link.single and part.row > link.source.row + 1
        ]
        self.y = self._heights()
        self.x = self._across()

    def _heights(self) -> list[float]:
        """Return the height of each row; a band has room for what is written in it."""
        heights = [0.0]
        for row in self.found.rows[1:]:
            steps = [links for part in row for links in self._labelled(part)]
            crowded = max((len(self._labelled(part)) for part in row), default=0)
            fan = any(not link.single for links in steps for link in links)
            band = 58.0 + 26 * fan + 30 * (crowded > 1) + 10 * (len(steps) > 1)
            heights.append(heights[-1] + band)
        return heights

    def _labelled(self, part: Part) -> list[list[Link]]:
        """Return the steps of a part that have something written on them and are no shortcuts."""
        mine = [[link for link in links if (part, link) not in self.rails] for links in steps_of(part)]
        return [links for links in mine if links and any(link.label for link in links)]

    def _across(self) -> dict[int, list[float]]:
        """Return the x of each part's dots: below what it is made of, as far as others leave room."""
        found: dict[int, list[float]] = {}
        for row in self.found.rows:
            inside = [self._inside(part, found) for part in row]
            widths: dict[int, float] = {}
            for part, _, text in self._said(row)[1]:
                widths[id(part)] = max(widths.get(id(part), 0.0), width_of(text, SMALL))
            wanted, halves = [], []
            for part, xs in zip(row, inside, strict=True):
                halves.append(max(xs[-1], widths.get(id(part), 0.0)) / 2)
                wanted.append(self._wanted(part, found))
            for part, xs, middle in zip(row, inside, _apart(wanted, halves), strict=True):
                found[id(part)] = [middle + x - xs[-1] / 2 for x in xs]
        self._above(found)
        return found

    def _above(self, found: dict[int, list[float]]) -> None:
        """Put inputs that are read one by one by the parts of the next row above those."""
        for part in self.found.rows[0]:
            below: dict[int, list[float]] = {}
            for reader in self.found.rows[1] if len(self.found.rows) > 1 else ():
                for link in reader.links:
                    if link.source is part and link.single and reader.kind != "order":
                        for target, source in link.matrix.nonzero().tolist():
                            below.setdefault(source, []).append(found[id(reader)][target])
            xs = [below.get(place, [0.0, 0.0]) for place in range(len(part.channels))]
            if all(len(each) == 1 for each in xs):
                found[id(part)] = [x for (x,) in xs]

    def _wanted(self, part: Part, found: dict[int, list[float]]) -> float:
        """Return the middle of what a part is made of, one by one if anything is, or of the row above."""
        links = [link for link in part.links if link.source.row + 1 == part.row]
        single = [link for link in links if link.single]
        xs = [found[id(link.source)][i] for link in single for i in link.matrix.nonzero()[:, 1].tolist()]
        return _middle(xs) if xs else 0.0

    def _inside(self, part: Part, found: dict[int, list[float]]) -> list[float]:
        """Return the x of a part's dots from its first: a gap wherever another group begins.

        Channels that come one by one from as many, and are not read in other groups, stand as those do.
        """
        read = any(link.source is part for other in self.found.parts for link in other.links)
        (links, *more) = steps_of(part) or [[]]
        if len(links) == 1 and not more and links[0].single and not (part.kind == "order" and read):
            places = links[0].matrix.nonzero()[:, 1].tolist()
            above = found.get(id(links[0].source), [])
            if len(places) == len(part.channels) and links[0].source.row + 1 == part.row:
                taken = sorted(above[place] for place in places)
                return [x - taken[0] for x in taken]
        blocks = self.colours.blocks[id(part)]
        xs, x = [], 0.0
        for i in range(len(part.channels)):
            if i and blocks[i] != blocks[i - 1]:
                x += _GAP
            xs.append(x)
            x += _PITCH
        return xs

    def drawn(self, labelled: bool) -> Diagram:
        """Return the picture, with or without words at its sides."""
        result = Diagram()
        for part in self.found.parts:
            result.dots += self._dots(part)
            for link in part.links:
                if (part, link) not in self.rails:
                    result.lines += self._lines(part, link)
        if labelled:
            result.words = list(self._labels())
        for number, (part, link) in enumerate(self.rails):
            self._rail(result, part, link, number)
        if labelled:
            self._beside(result)
        return result

    def _dots(self, part: Part) -> Iterator[Dot]:
        share = math.prod(part.size) / self.largest if part.size else 1.0
        passing = self._passing(part)
        radius = 2.2 if passing else 2.6 + 3.0 * share**0.5
        for x, number, colour in zip(self.x[id(part)], part.channels, self.colours.of[id(part)], strict=True):
            yield Dot(x, self.y[part.row], radius, colour, f"channel {number}", passing)

    def _passing(self, part: Part) -> bool:
        return part.kind == "kept" and part.row + 1 < len(self.found.rows)

    def _lines(self, part: Part, link: Link) -> Iterator[Line]:
        pairs = link.matrix.nonzero().tolist()
        fans = [other for other in self.found.rows[part.row] for own in other.links if not own.single]
        lines = sum(int(own.matrix.sum()) for other in set(fans) for own in other.links)
        opacity = 0.95 if link.single else min(0.8, max(0.2, 6 / lines**0.6))
        xs, above = self.x[id(part)], self.x[id(link.source)]
        own, made = self.colours.of[id(link.source)], self.colours.of[id(part)]
        for ago, table in enumerate(reversed(link.lost), 1):
            for target, source in table.nonzero().tolist():
                start = above[source], self.y[link.source.row]
                yield Line(start, (xs[target], self.y[part.row]), None, 0.7 / 2**ago, False, 1.2 / 2**ago)
        for target, source in pairs:
            start = above[source], self.y[link.source.row]
            colour = made[target] if own[source] is None else own[source]
            yield Line(start, (xs[target], self.y[part.row]), colour, opacity, link.single)

    def _labels(self) -> Iterator[Words]:
        """Yield what is written beside the lines, of all in a row, and upon them, where parts differ."""
        left = min(x for xs in self.x.values() for x in xs) - 22
        placed: list[Words] = []
        for number, row in enumerate(self.found.rows[1:], 1):
            beside, upon = self._said(row)
            if beside:
                yield Words(left, (self.y[number - 1] + self.y[number]) / 2, beside, "end")
            for part, links, text in upon:
                placed.append(self._upon(part, links, text, placed))
        yield from placed

    def _said(self, row: Sequence[Part]) -> tuple[str, list[tuple[Part, list[Link], str]]]:
        """Return what is said beside a row, and what upon its lines: how its parts differ."""
        steps = [(part, links, _label(links)) for part in row for links in self._labelled(part)]
        labels = [label for _, _, label in steps]
        if len(set(labels)) <= 1:
            return (labels[0] if labels else ""), []
        heads, tails = zip(*(label.partition(", ")[::2] for label in labels), strict=True)
        if len(set(tails)) == 1 and tails[0]:
            return tails[0], [
                (part, links, head) for (part, links, _), head in zip(steps, heads, strict=True)
            ]
        return "", steps

    def _upon(self, part: Part, links: list[Link], text: str, placed: list[Words]) -> Words:
        """Return a label between the middles of what it leads from and to, where there is still room."""
        above = [x for link in links for x in self._read(link)]
        ends = _middle(above), _middle(self.x[id(part)])
        top, bottom = self.y[part.row - 1], self.y[part.row]
        tried = []
        for share in (0.74, 0.56, 0.38, 0.22):
            x, y = ends[0] + share * (ends[1] - ends[0]), top + share * (bottom - top)
            label = Words(x, y, text, size=SMALL, boxed=True)
            if not any(_meet(label.box, other.box) for other in placed):
                return label
            tried.append(label)
        return tried[0]

    def _read(self, link: Link) -> list[float]:
        used = link.matrix.any(0).tolist()
        return [x for x, one in zip(self.x[id(link.source)], used, strict=True) if one]

    def _rail(self, result: Diagram, part: Part, link: Link, number: int) -> None:
        """Lead a shortcut around, on the side on which it ends."""
        across = self.x[id(part)]
        row = [x for other in self.found.rows[part.row] for x in self.x[id(other)]]
        side = -1 if _middle(across) < _middle(row) - 1 else 1
        between = [x for p in self.found.parts if link.source.row <= p.row <= part.row for x in self.x[id(p)]]
        labels = [w.box for w in result.words if self.y[link.source.row] <= w.y <= self.y[part.row]]
        reach = [x for box in labels for x in (box[0], box[2])] + between
        outer = (min(reach) if side < 0 else max(reach)) + side * (26 + 18 * number)
        ends = [side * max(side * x for x in self.x[id(p)]) + side * 11 for p in (link.source, part)]
        added = part.kind == "sum"
        heights = self.y[link.source.row], self.y[part.row]
        points = (ends[0], heights[0]), (outer, heights[0]), (outer, heights[1]), (ends[1], heights[1])
        result.rails.append(Rail(points, added))
        said = link.label if link.label not in ("", "+") else "shortcut" if added else "kept as it is"
        anchor = "end" if side < 0 else "start"
        result.words.append(Words(outer + side * 8, sum(heights) / 2, said, anchor, SMALL))

    def _beside(self, result: Diagram) -> None:
        """Write at the right how many channels there are, and how large their maps, where that changes."""
        edges = [x for xs in self.x.values() for x in xs]
        edges += [x for rail in result.rails for x, _ in rail.points]
        right = max([*edges, *(words.box[2] for words in result.words)]) + 20
        last = ""
        for number, row in enumerate(self.found.rows):
            shown = [part for part in row if not self._passing(part)] or row
            said = _amount(shown, self.found.sized)
            if said != last:
                result.words.append(Words(right, self.y[number], said, "start", SMALL, soft=True))
            last = said


def _amount(row: list[Part], sized: bool) -> str:
    counts: dict[str, list[int]] = {}
    for part in row:
        found = counts.setdefault("x".join(map(str, part.size)) if sized else "", [0, 0])
        found[0] += len(part.channels)
        found[1] += part.whole
    said = []
    for size, (shown, whole) in counts.items():
        channels = f"{whole}" if shown == whole else f"{shown} of {whole}"
        said.append(f"{channels}{'' if said else ' channels'}{f' of {size}' if size else ''}")
    return ", ".join(said)


def _label(links: list[Link]) -> str:
    return " + ".join(dict.fromkeys(link.label for link in links if link.label))


def _apart(wanted: Sequence[float], halves: Sequence[float]) -> list[float]:
    """Return middles as near to the wanted ones as they can be, side by side without touching."""
    blocks: list[
        list[float]
    ] = []  # of neighbours that touch: sum of wanted places of the first, how many, width
    offset, offsets = 0.0, []
    for i, (middle, half) in enumerate(zip(wanted, halves, strict=True)):
        offset += halves[i - 1] + _APART + half if i else 0.0
        offsets.append(offset)
        blocks.append([middle - offset, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    starts = [total / count for total, count in blocks for _ in range(int(count))]
    return [start + offset for start, offset in zip(starts, offsets, strict=True)]


def _middle(xs: Sequence[float]) -> float:
    return (min(xs) + max(xs)) / 2


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] + 4 and b[0] < a[2] + 4 and a[1] < b[3] + 2 and b[1] < a[3] + 2
