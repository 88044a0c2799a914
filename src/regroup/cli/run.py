"""Classify an image with a network, compiled to native code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Options:
    """Which network, on which image."""

    model: tyro.conf.Positional[str]
    """A name of ours (`regroup models`), timm's or torchvision's; a run of `regroup train`; an ONNX file."""
    image: Path
    """Image file."""
    pretrained: bool = False
    """Load the weights that the model hub has for it."""
    weights: Path | None = None
    """File of weights, for networks of ours."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Threads to use; none: as many as PyTorch takes."""
    top: int = 5
    """Classes to print."""
    json: bool = False
    """Print the classes as JSON."""
    quiet: bool = False
    """No progress bar."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further networks."""


def run(options: Options) -> int:
    """Print the most probable classes."""
    import json

    from regroup.cli._compiled import compiled
    from regroup.cli._network import check_number, choose
    from regroup.errors import ConfigError, printable
    from regroup.loading import ImageInput

    if options.top < 1:
        raise ConfigError("top", options.top, "an int of at least 1")
    check_number("threads", options.threads)
    chosen = choose(
        options.model, weights=options.weights, pretrained=options.pretrained, plugins=options.plugin
    )
    loaded = chosen.loaded
    size = None if chosen.size is None else (chosen.channels, *chosen.size)
    wanted = loaded.input if loaded else ImageInput.of(chosen.model, size)
    x = wanted.read(options.image)
    fast = compiled(chosen, tuple(x.shape), quiet=options.quiet or options.json, threads=options.threads)
    scores = fast(x)
    probabilities = scores[0].softmax(0)
    best = probabilities.topk(min(options.top, len(probabilities)))
    names = loaded.classes.__getitem__ if loaded else _class_names(len(probabilities))
    rows = [
        {"class": index, "name": names(index), "probability": probability}
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        print(f"{row['probability']:7.2%}  {row['class']:>4}  {printable(row['name'])}")
    if loaded is None and not options.pretrained and options.weights is None:
        print("(random weights: give --pretrained or --weights)")
    return 0


def _class_names(count: int) -> Callable[[int], str]:
    from timm.data import ImageNetInfo

    if count != 1000:
        return lambda index: ""
    return ImageNetInfo().index_to_description
