"""A plan as a table."""

from __future__ import annotations

from typing import Any


def table(plan: Any) -> str:
    """Return a plan as lines: a layer each, then the loads of both ways to share."""
    head = ("layer", "a device has", "parameters", "MACs", "forward", "backward", "how")
    rows = [
        (
            layer.name or "the network",
            layer.held,
            amount(layer.parameters),
            amount(layer.macs),
            size(layer.forward),
            size(layer.backward),
            ", ".join(kind for kind in layer.collectives if not kind.startswith("backward")),
        )
        for layer in plan.layers
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [_line(row, widths) for row in (head, *rows)]
    lines += ["", f"{plan.devices} devices, {plan.batch} image(s) a step; a device", _loads(plan)]
    if plan.even_batch == float("inf"):
        lines.append("sharing channels moves nothing")
    else:
        lines.append(f"sharing channels moves fewer bytes up to {plan.even_batch:.3g} images a step")
    lines += [f"on all devices alike: {layer or 'the network'}: {note}" for layer, note in plan.notes.items()]
    return "\n".join(lines)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.rjust(width) if 2 <= i <= 5 else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _loads(plan: Any) -> str:
    head = ("shares", "receives", "parameters", "weights, gradients, momentum", "activations", "MACs")
    rows = [
        (
            name,
            size(load.received),
            amount(load.parameters),
            size(load.weights),
            size(load.activations),
            amount(load.macs),
        )
        for name, load in (("channels", plan.groups), ("images", plan.data))
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in (head, *rows)
    )


def size(number: float) -> str:
    """Return bytes in words: 1.5 MB."""
    return "-" if not number else f"{amount(number)}B"


def amount(number: float) -> str:
    """Return a number with three digits and a unit: 1.5 M."""
    if not number:
        return "-"
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g} {unit}" if unit or number % 1 else f"{int(number)} "
        number /= 1000
    return f"{number:.3g} T"
