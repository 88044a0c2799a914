"""Counts, times and shares as people read them.

>>> count(1_234_567), count(950), milliseconds(0.01234), percent(0.123)
('1.23 M', '950', '0.0123 ms', '12 %')
"""

from __future__ import annotations


def count(number: float | None) -> str:
    """Return a count with a unit: k, M or G."""
    if number is None:
        return ""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:.0f} {unit}"
    return f"{number:.0f}"


def milliseconds(value: float | None) -> str:
    """Return a time in milliseconds to three digits."""
    return "" if value is None else f"{value:.3g} ms"


def percent(share: float | None) -> str:
    """Return a share of 0 ... 1 in per cent."""
    return "" if share is None else f"{100 * share:.0f} %"
