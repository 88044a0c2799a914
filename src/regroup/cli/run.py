"""Classify an image with a network, compiled to native code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from torch import Tensor, nn


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

    if options.top < 1:
        raise ConfigError("top", options.top, "an int of at least 1")
    check_number("threads", options.threads)
    chosen = choose(
        options.model, weights=options.weights, pretrained=options.pretrained, plugins=options.plugin
    )
    trained = chosen.trained
    size = None if chosen.size is None else (chosen.channels, *chosen.size)
    x = trained.read(options.image) if trained else read_image(options.image, chosen.model, size)
    fast = compiled(chosen, tuple(x.shape), quiet=options.quiet or options.json, threads=options.threads)
    scores = fast(x)
    probabilities = scores[0].softmax(0)
    best = probabilities.topk(min(options.top, len(probabilities)))
    names = trained.classes.__getitem__ if trained else _class_names(len(probabilities))
    rows = [
        {"class": index, "name": names(index), "probability": probability}
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        print(f"{row['probability']:7.2%}  {row['class']:>4}  {printable(row['name'])}")
    if trained is None and not options.pretrained and options.weights is None:
        print("(random weights: give --pretrained or --weights)")
    return 0


def read_image(path: Path, model: nn.Module, size: tuple[int, int, int] | None = None) -> Tensor:
    """Return the image as the model wants it: (1, 3, height, width), resized, cropped, normalised.

    Without a configuration of timm's the model is taken to want ImageNet's mean and deviation.

    Args:
        path: of the image.
        model: with a `default_cfg`, if it is timm's.
        size: channels, height and width, where the model is asked for something else than its configuration.

    Raises:
        DataError: no image can be read there.
    """
    from timm.data import resolve_data_config

    from regroup.training.data import images

    wanted: dict[str, Any] = resolve_data_config({} if size is None else {"input_size": size}, model=model)
    channels, height, width = wanted["input_size"]
    picture = images.read_image(path, channels)
    part = height / int(height / wanted["crop_pct"])  # timm resizes to a whole number of pixels, then crops
    resample = wanted["interpolation"]
    if wanted["crop_mode"] == "border":
        fill = tuple(round(255 * level) for level in wanted["mean"])
        pixels = images.letterbox(picture, (height, width), part, fill, resample=resample)
    else:
        squash = wanted["crop_mode"] == "squash"
        pixels = images.fit(picture, (height, width), part, squash=squash, resample=resample)
    return images.normalised(pixels, wanted["mean"], wanted["std"])


def _class_names(count: int) -> Callable[[int], str]:
    from timm.data import ImageNetInfo

    if count != 1000:
        return lambda index: ""
    return ImageNetInfo().index_to_description
