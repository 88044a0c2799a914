"""Progress on the terminal's error stream, where somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(
    what: str, total: int | None = None, *, quiet: bool = False
) -> Iterator[Callable[[int, int | None], None]]:
    """While this is entered, show how much is done; yield a function of how many are, and of how many.

    Args:
        what: is counted.
        total: how many there are, if that is known.
        quiet: show nothing, as where the error stream is no terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    silent = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=silent, transient=True) as shown:
        task = shown.add_task(what, total=total)

        def progress(done: int, of: int | None = None) -> None:
            shown.update(task, completed=done, total=total if of is None else of)

        yield progress
