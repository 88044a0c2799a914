"""Train a network, of ours or of timm, with any grouping, on any images; resume it after whatever."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regroup.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from regroup.cli._trained import Trained
    from regroup.training import History


@dataclass(frozen=True)
class Options(TrainConfig):
    """Several processes: torchrun --nproc-per-node 2 -m regroup train ..."""

    model: str = "resnet_small"
    """Network: a name of ours (`regroup models`), of timm's or of torchvision's."""
    model_options: tuple[str, ...] = ()
    """Options of the network, such as learned=true for a condensenet that is to learn its groups."""
    strategy: str | None = None
    """Grouping put into the network, such as grouped:groups=4; none: the network as it is."""
    where: str | None = None
    """Pattern of the names of the convolutions that get the grouping; none: all larger than 1x1."""
    pretrained: bool = False
    """Start from the weights that the hub has (timm's, torchvision's)."""
    data: str = "digits"
    """Data set: a name such as digits, glyphs or cifar10, or a folder of images."""
    image: int | None = None
    """Height and width of the images; none: as the data set has them."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do about images that cannot be read."""
    download: bool = False
    """Download a data set that is not there."""
    teacher: Path | None = None
    """Directory of a finished run of `regroup train`, whose network teaches this one too."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further strategies."""


def run(options: Options) -> int:
    """Train, and leave the weights in the output directory."""
    from regroup.cli._plugins import load_plugins
    from regroup.cli._trained import Trained, load_run
    from regroup.training import load_data, train

    load_plugins(options.plugin)
    data = load_data(options.data, options.image, bad_images=options.bad_images, download=options.download)
    config = TrainConfig(**{f.name: getattr(options, f.name) for f in fields(TrainConfig)})
    if config.output is None:
        config = replace(config, output=Path("runs") / _run_name(options))
    choices = options.model, _read_options(options.model_options), options.strategy, options.where
    network = Trained.on(data, *choices)
    model = network.build(seed=config.seed, pretrained=options.pretrained)
    teacher = None if options.teacher is None else load_run(options.teacher)[0]
    history = train(model, data, config, teacher=teacher)
    if os.environ.get("RANK", "0") == "0":
        assert config.output is not None
        _finish(config.output, model, network, history)
    return 0


def _finish(output: Path, model: nn.Module, network: Trained, history: History) -> None:
    from regroup.cli._trained import WEIGHTS
    from regroup.files.sealed import verify_sealed
    from regroup.training import save_weights

    path = output / WEIGHTS
    if path.exists():  # the run was over already: resuming it has changed nothing
        verify_sealed(path)
    else:
        save_weights(path, model.cpu(), network=network.to_json())
    last = history.last
    print(f"top-1 {last.top1:.2f} %, test loss {last.test_loss:.4f} after {last.epoch} epochs: {path}")


def _read_options(texts: tuple[str, ...]) -> dict[str, Any]:
    """Return {name: value} of texts like name=value; values are JSON, or else text.

    Raises:
        ConfigError: a text has another form.
    """
    import json

    from regroup.errors import ConfigError

    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError("model_options", text, "of the form name=value")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _run_name(options: Options) -> str:
    parts = [options.model, *options.model_options, options.strategy or "", Path(options.data).name]
    text = "-".join(part for part in parts if part)
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
