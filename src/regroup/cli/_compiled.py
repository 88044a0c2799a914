"""Compile a network with a progress bar: what `compile` and `run` have in common."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regroup.cli._network import Chosen
    from regroup.engine.running.compiled import Compiled


def compiled(chosen: Chosen, shape: tuple[int, ...], *, quiet: bool, threads: int | None = None) -> Compiled:
    """Compile for images of `shape`, with a progress bar on the terminal's error stream.

    Raises:
        ConfigError: the network does not take such images.
    """
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from regroup.engine.running.compiled import compile

    images = torch.zeros(shape)
    chosen.check(images)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not sys.stderr.isatty()) as bar:
        task = bar.add_task("kernels", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return compile(chosen.model, images, progress, threads=threads)
