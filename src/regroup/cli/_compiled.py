"""Build a network by name and compile it, with a progress bar: what `compile` and `run` have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from regroup.engine.compiled import Compiled


def build(
    name: str, weights: Path | None, *, pretrained: bool, channels: int, plugins: Iterable[Path]
) -> nn.Module:
    """Return the network in eval mode, with the weights that were asked for.

    Raises:
        ConfigError: weights from a file for a network that is not ours.
        CheckpointError: the file cannot be used.
    """
    from regroup.cli._plugins import load_plugins
    from regroup.errors import ConfigError
    from regroup.networks import networks
    from regroup.networks.anywhere import create_any_model

    load_plugins(plugins)
    if weights is None:
        return create_any_model(name, in_chans=channels, pretrained=pretrained).eval()
    if name not in networks:
        raise ConfigError("weights", str(weights), "left out for networks that are not regroup's own")
    return create_any_model(name, in_chans=channels, weights=weights).eval()


def compiled(model: nn.Module, shape: tuple[int, ...], *, quiet: bool) -> Compiled:
    """Compile for images of `shape`, with a progress bar on the terminal's error stream."""
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from regroup.engine.compiled import compile

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not sys.stderr.isatty()) as bar:
        task = bar.add_task("kernels", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return compile(model, torch.zeros(shape), progress)
