"""Numbers as people read them, the same in the terminal and on the page.

>>> count(1_234_567), count(950), milliseconds(0.01234), times(3.456)
('1.23 M', '950', '0.0123 ms', '3.46x')
"""

from __future__ import annotations

from regroup.comparison.result import Comparison
from regroup.profiling.text import count as count
from regroup.profiling.text import milliseconds as milliseconds
from regroup.profiling.text import percent as percent


def times(value: float | None) -> str:
    """Return a ratio."""
    return "" if value is None else f"{value:.2f}x"


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(41), duration(400), duration(8000)
    ('41 s', '7 min', '2.2 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.2g} h"


def measure(comparison: Comparison) -> str:
    """Return what the accuracies of a comparison are: of other tasks than classifying their own measure."""
    return str(comparison.settings.get("measure", "accuracy"))


def best(comparison: Comparison) -> str:
    """Return what the network of the highest measure is called."""
    return "most accurate" if measure(comparison) == "accuracy" else f"best by {measure(comparison)}"


def measured(comparison: Comparison) -> str:
    """Return the same for an axis."""
    return f"test {measure(comparison)}, per cent"


def accuracy(mean: float | None, spread: float | None) -> str:
    """Return an accuracy in per cent, with its standard deviation if there is one."""
    if mean is None:
        return ""
    return f"{mean:.2f} %" if spread is None else f"{mean:.2f} ± {spread:.2f} %"
