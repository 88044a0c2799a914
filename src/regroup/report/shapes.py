"""The shapes that pictures of modules are made of, in pixels: dots, lines, shortcuts and words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

FONT, SMALL = 12.0, 10.5
"""Heights of letters."""
_BESIDE, _BELOW, _MARGIN = 44.0, 34.0, 16.0
"""Between pictures side by side, between rows of them, and around everything."""
_LETTER = 0.6
"""Width of a letter, as a share of its height: of a wide font, so that others have room too."""


def width_of(text: str, size: float = FONT) -> float:
    """Return at most how wide a text is."""
    return _LETTER * size * len(text)


@dataclass(frozen=True)
class Dot:
    """A channel; `radius` goes with its resolution, and one that only passes through is `small`."""

    x: float
    y: float
    radius: float
    colour: int | None
    title: str
    passing: bool = False


@dataclass(frozen=True)
class Line:
    """From a channel to one that is made of it; bent where each only changes its place."""

    start: tuple[float, float]
    end: tuple[float, float]
    colour: int | None
    opacity: float
    bent: bool
    width: float = 1.2


@dataclass(frozen=True)
class Rail:
    """A shortcut around what lies between: points of a line with round corners; `sum`: it is added there."""

    points: tuple[tuple[float, float], ...]
    added: bool


@dataclass(frozen=True)
class Words:
    """Text around a point: `anchor` says which end of it stands there; `boxed` text lies on lines."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    size: float = FONT
    soft: bool = False
    boxed: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        width = width_of(self.text, self.size)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.y - 0.65 * self.size, left + width, self.y + 0.65 * self.size


@dataclass
class Diagram:
    """Everything in a picture, and how large it is."""

    dots: list[Dot] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    rails: list[Rail] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of all that is in it."""
        boxes = [words.box for words in self.words]
        boxes += [(d.x - d.radius, d.y - d.radius, d.x + d.radius, d.y + d.radius) for d in self.dots]
        boxes += [(x - 8, y, x + 8, y) for rail in self.rails for x, y in rail.points]
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    def moved(self, dx: float, dy: float) -> Diagram:
        """Return the same somewhere else."""

        def at(point: tuple[float, float]) -> tuple[float, float]:
            return point[0] + dx, point[1] + dy

        return Diagram(
            [replace(dot, x=dot.x + dx, y=dot.y + dy) for dot in self.dots],
            [replace(line, start=at(line.start), end=at(line.end)) for line in self.lines],
            [replace(rail, points=tuple(map(at, rail.points))) for rail in self.rails],
            [replace(words, x=words.x + dx, y=words.y + dy) for words in self.words],
            self.width,
            self.height,
        )

    def framed(self, title: str, notes: Sequence[str]) -> Diagram:
        """Return it with a title above and notes below, all beginning at the margin."""
        left, top, right, bottom = self.box
        middle = (left + right) / 2
        words = [Words(middle, top - 24, title, size=FONT + 2)] if title else []
        words += [
            Words(middle, bottom + 26 + 17 * i, note, size=SMALL, soft=True) for i, note in enumerate(notes)
        ]
        whole = replace(self, words=self.words + words)
        left, top, right, bottom = whole.box
        whole = whole.moved(_MARGIN - left, _MARGIN - top)
        whole.width, whole.height = right - left + 2 * _MARGIN, bottom - top + 2 * _MARGIN
        return whole


def side_by_side(panels: Sequence[Diagram], width: float) -> Diagram:
    """Return pictures as one: as many in a row as are no wider together, rows centred below each other."""
    whole, top = Diagram(), 0.0
    for row in _rows(panels, width):
        boxes = [panel.box for panel in row]
        x = -(sum(box[2] - box[0] for box in boxes) + _BESIDE * (len(row) - 1)) / 2
        for panel, box in zip(row, boxes, strict=True):
            part = panel.moved(x - box[0], top - box[1])
            for mine, its in zip(_lists(whole), _lists(part), strict=True):
                mine.extend(its)
            x += box[2] - box[0] + _BESIDE
        top += max(box[3] - box[1] for box in boxes) + _BELOW
    return whole


def _rows(panels: Sequence[Diagram], width: float) -> Iterator[list[Diagram]]:
    row, used = list[Diagram](), 0.0
    for panel in panels:
        left, _, right, _ = panel.box
        if row and used + _BESIDE + right - left > width:
            yield row
            row, used = [], 0.0
        used += (_BESIDE if row else 0.0) + right - left
        row.append(panel)
    yield row


def _lists(found: Diagram) -> tuple[list, ...]:
    return found.dots, found.lines, found.rails, found.words
