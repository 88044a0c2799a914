"""Compile a network to native code and show what each step does, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Options:
    """Which network, for which input."""

    model: tyro.conf.Positional[str]
    """Network: a name of ours (`regroup models`), of timm's or of torchvision's."""
    image: int = 224
    """Height and width of the input image."""
    channels: int = 3
    """Channels of the input image."""
    weights: Path | None = None
    """File of weights, for networks of ours; none: random ones."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Threads to time with; none: as many as PyTorch takes."""
    json: bool = False
    """Print the steps as JSON."""
    quiet: bool = False
    """No progress bar."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further networks."""


def run(options: Options) -> int:
    """Compile, then print the table of steps."""
    import json

    import torch

    from regroup.cli._compiled import build, compiled
    from regroup.errors import ConfigError

    for name in ("image", "channels", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(name, value, "an int of at least 1")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = build(
        options.model,
        options.weights,
        pretrained=False,
        channels=options.channels,
        plugins=options.plugin,
    )
    shape = (1, options.channels, options.image, options.image)
    found = compiled(model, shape, quiet=options.quiet or options.json).explain(json=options.json)
    print(json.dumps(found, indent=1) if options.json else found)
    return 0
