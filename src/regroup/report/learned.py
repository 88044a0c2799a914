"""What strategies have learned, as a table and pictures: which inputs feed which outputs, kernels, scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from regroup.comparison.result import Row
from regroup.ops.reach import listed
from regroup.report.tiles import Tile, tile


@dataclass(frozen=True)
class LearnedLayer:
    """One line of the table: the layer, the kind of grouping, and what was learned in words."""

    layer: str
    kind: str
    words: str


def learned_layers(row: Row) -> list[LearnedLayer]:
    """Return a line for each layer of a row that learned something."""
    return [
        LearnedLayer(layer, str(data.get("kind", "")), "; ".join(_words(data)))
        for layer, data in row.learned.items()
    ]


def learned_tiles(row: Row) -> list[Tile]:
    """Draw, for each layer with learned groups, which inputs (across) feed which outputs (down)."""
    return [
        tile(layer, listed(data["groups"]).int().tolist(), "Greens")
        for layer, data in row.learned.items()
        if data.get("groups")
    ]


def _words(data: dict[str, Any]) -> list[str]:
    words = []
    for name, value in data.items():
        if name == "groups":
            sizes = ", ".join(f"{len(g['inputs'])}→{len(g['outputs'])}" for g in value)
            words.append(f"{len(value)} groups, inputs→outputs: {sizes}")
        elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
            words.append(f"{name}: {', '.join(_part(part) for part in value)}")
        elif name != "kind":
            words.append(f"{name}: {_short(value)}")
    return words


def _part(part: dict[str, Any]) -> str:
    """Say what one part of the channels has, like 'kernel 3: 12 inputs'."""
    given = " ".join(f"{name} {value}" for name, value in part.items() if not isinstance(value, list))
    counts = ", ".join(f"{len(value)} {name}" for name, value in part.items() if isinstance(value, list))
    return f"{given}: {counts}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        text = ", ".join(_short(v) for v in value[:16])
        return f"[{text}{', ...' if len(value) > 16 else ''}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) + "}"
    return str(value)
