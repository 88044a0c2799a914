"""A profile as a table and sentences, for the terminal and for `print`.

What is called `found` is a `Profile`, which imports this.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import Any

from regroup.errors import printable
from regroup.profiling import text


def columns(found: Any) -> list[tuple[str, bool]]:
    """Return the names of the columns that have something to show, and whether they hold numbers."""
    names = [("layer", False), ("what", False), ("output", False)]
    figures = ["params", "MACs", "of all", "ideal", "dense", "bytes", "rearranged", "FLOPs/byte"]
    figures += ["time", "of all"] if found.time is not None else []
    figures += ["reach"] if _is_reached(found) else []
    return [*names, *((name, True) for name in figures)]


def rows(found: Any, depth: int | None = None) -> Iterator[list[str]]:
    """Yield the cells of each module down to `depth` levels, in the order of the columns."""
    reached = _is_reached(found)
    for level, layer in _levels(found.root, depth):
        cost = layer.cost
        short = printable(layer.name.rpartition(".")[2]) or "(network)"
        cells = [
            "  " * level + short,
            f"{layer.kind} {layer.detail}".strip(),
            "x".join(map(str, layer.output)),
            _count(cost.parameters),
            _count(cost.macs),
            text.percent(found.share(layer)) if cost.macs else "",
            _count(cost.ideal_macs) if cost.ideal_macs != cost.macs else "",
            _count(cost.dense_macs) if cost.dense_macs != cost.macs else "",
            _count(cost.bytes),
            _count(cost.bytes_rearranged),
            f"{cost.intensity:.1f}" if cost.macs else "",
        ]
        if found.time is not None:
            milliseconds = None if layer.time is None else 1e3 * layer.time.median
            share = None if layer.time is None else found.share(layer, "time")
            cells += [text.milliseconds(milliseconds), text.percent(share)]
        yield [*cells, text.percent(layer.fill)] if reached else cells


_SIDES = {False: "left", True: "right"}


def as_html(found: Any, depth: int | None = 2) -> str:
    """Return the table, down to `depth` levels, and the sentences below it, as a part of a page."""
    heads = columns(found)
    lines = [_html_row("th", [name for name, _ in heads], heads)]
    lines += [_html_row("td", cells, heads) for cells in rows(found, depth)]
    said = "<br>".join(map(html.escape, summary(found)))
    return f'<div style="overflow-x:auto"><table>{"".join(lines)}</table></div><p>{said}</p>'


def _html_row(kind: str, cells: list[str], heads: list[tuple[str, bool]]) -> str:
    said = [
        f'<{kind} style="text-align:{_SIDES[is_number]};white-space:pre">{html.escape(cell)}</{kind}>'
        for cell, (_, is_number) in zip(cells, heads, strict=True)
    ]
    return f"<tr>{''.join(said)}</tr>"


def table(found: Any) -> str:
    """Return the whole table, and the sentences below it."""
    heads, body = columns(found), list(rows(found))
    widths = [max(map(len, cells)) for cells in zip([name for name, _ in heads], *body, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, (_, is_number) in zip(cells, widths, heads, strict=True)
        ).rstrip()
        for cells in ([name for name, _ in heads], *body)
    ]
    return "\n".join([*lines, "", *summary(found)])


def summary(found: Any) -> Iterator[str]:
    """Yield the totals in words; MACs and FLOPs both, so that nobody takes one for the other."""
    total = found.total
    run = "a training step" if found.training else "inference"
    inputs = ", ".join("x".join(map(str, shape)) for shape in found.inputs)
    yield f"input {inputs}, {run}"
    yield f"{total.parameters:,} parameters"
    yield f"{_unit(total.macs, 'MACs')} executed = {_unit(2 * total.macs, 'FLOPs')} (1 MAC = 2 FLOPs)"
    if total.ideal_macs != total.macs:
        yield f"{_unit(total.ideal_macs, 'MACs')} if masked weights were not multiplied"
    if total.dense_macs != total.macs:
        ratio = total.dense_macs / max(1, total.macs)
        yield f"{_unit(total.dense_macs, 'MACs')} if every layer were dense: {ratio:.1f} times as many"
    yield (
        f"{_unit(total.bytes, 'B')} read and written, of which {_unit(total.bytes_rearranged, 'B')} by "
        f"gathers, shuffles, concatenations and copies; {total.intensity:.1f} FLOPs/byte"
    )
    yield f"{text.count(total.activations)} activations (outputs of convolutions and linear layers)"
    if found.uncounted:
        yield f"without a formula, counted as 0 MACs: {', '.join(found.uncounted)}"
    yield from _measured(found)


def _measured(found: Any) -> Iterator[str]:
    if found.time is not None:
        low, median, high = (1e3 * t for t in (found.time.low, found.time.median, found.time.high))
        rate = 2 * found.total.macs / found.time.median / 1e9 if not found.training else None
        speed = f", {rate:.1f} GFLOP/s" if rate else ""
        noise = (
            ""
            if found.time.verdict == "quiet"
            else f"; this timing is {found.time.verdict}: the machine was not idle"
        )
        yield f"inference took {median:.3g} ms (half of the runs {low:.3g} .. {high:.3g} ms){speed}{noise}"
        yield f"on {found.machine}"
    if found.mixing is not None:
        if found.mixing.depth is None:
            yield f"channels that enter {found.mixing.start} are never all mixed"
        else:
            layers = "layer" if found.mixing.depth == 1 else "layers"
            yield f"all channels are mixed after {found.mixing.depth} {layers} (from {found.mixing.start} on)"
        if found.mixing.assumed:
            yield f"reach assumes that these mix everything: {', '.join(found.mixing.assumed)}"


def _levels(layer: Any, depth: int | None, level: int = 0) -> Iterable[tuple[int, Any]]:
    yield level, layer
    if depth is None or level < depth:
        for part in layer.parts:
            yield from _levels(part, depth, level + 1)


def _unit(number: int, unit: str) -> str:
    """Return '347 MMACs', '12 MACs'."""
    return text.count(number) + ("" if number >= 1000 else " ") + unit


def _count(number: int) -> str:
    return text.count(number) if number else ""


def _is_reached(found: Any) -> bool:
    return any(layer.fill is not None for layer in found.layers())
