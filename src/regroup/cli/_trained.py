"""The network of a run of `regroup train`: what is written beside its weights, and how it is built again."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from regroup.training import DataSet

WEIGHTS = "weights"
"""Directory of the trained weights, in that of the run."""


@dataclass(frozen=True)
class Trained:
    """What it takes to build the network of a run, and to show it an image as the run did.

    Args:
        model: name of the network.
        options: of the network.
        strategy: put into its convolutions; None: none.
        where: into which of them.
        classes: names.
        shape: (channels, height, width) of the images.
        mean: of each channel, with pixels in 0 .. 1.
        std: of each channel.
        part: of an image, how much of each side is shown to the network.
    """

    model: str
    options: dict[str, Any]
    strategy: str | None
    where: str | None
    classes: list[str]
    shape: list[int]
    mean: list[float]
    std: list[float]
    part: float

    @classmethod
    def on(
        cls, data: DataSet, model: str, options: dict[str, Any], strategy: str | None, where: str | None
    ) -> Trained:
        """Return the description of a network that is trained on `data`."""
        images = list(data.classes), list(data.shape), list(data.mean), list(data.std), data.part
        return cls(model, options, strategy, where, *images)

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def build(self, *, seed: int = 0, pretrained: bool = False, quiet: bool = False) -> nn.Module:
        """Return the network as it was before training, and say what the strategy replaced."""
        import torch

        from regroup.conversion.replace import replace
        from regroup.networks.anywhere import create_any_model

        torch.manual_seed(seed)
        model = create_any_model(
            self.model,
            num_classes=len(self.classes),
            in_chans=self.shape[0],
            pretrained=pretrained,
            **self.options,
        )
        if self.strategy is not None:
            changes = replace(model, self.strategy, self.where)
            if not quiet and os.environ.get("RANK", "0") == "0":
                print(changes, file=sys.stderr)
        return model

    def read(self, path: Path) -> Tensor:
        """Return an image file as the run's test images were given to the network: (1, channels, H, W).

        Raises:
            DataError: no image can be read there.
        """
        from regroup.training.data.images import fit, normalised, read_image

        channels, height, width = self.shape
        pixels = fit(read_image(path, channels), (height, width), self.part)
        return normalised(pixels, self.mean, self.std)


def load_run(directory: Path) -> tuple[nn.Module, Trained]:
    """Return the trained network of a finished run of `regroup train`, and its description.

    Raises:
        CheckpointError: it is not one, or is damaged.
    """
    from regroup.errors import CheckpointError
    from regroup.training.checkpoint import list_checkpoints, load_checkpoint, load_state

    path = directory / WEIGHTS
    if not path.exists():
        reason = "is no run of `regroup train`"
        if directory.is_dir() and list_checkpoints(directory):
            reason = "is a run that is not finished: go on with it by --resume"
        raise CheckpointError(directory, reason if directory.exists() else "there is no such directory")
    saved = load_checkpoint(path)
    try:
        trained = Trained(**saved["network"])  # type: ignore[bad-argument-type]
    except (KeyError, TypeError):
        raise CheckpointError(path, "does not say which network it holds") from None
    model = trained.build(quiet=True)
    load_state(path, model, saved["weights"])
    return model.eval(), trained
