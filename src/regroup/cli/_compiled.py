"""Compile a network with a progress bar: what `compile`, `run` and `evaluate` have in common."""

from __future__ import annotations

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

    from regroup.cli._bars import bar
    from regroup.engine.running.compiled import compile

    images = torch.zeros(shape)
    chosen.check(images)
    with bar("kernels", quiet=quiet) as progress:
        fast = compile(chosen.model, images, progress, threads=threads)
        fast(images)  # what cannot be recorded as a whole is compiled module by module, as these are called
    return fast
