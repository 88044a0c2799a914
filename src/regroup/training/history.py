"""What a training run has achieved, epoch by epoch, and what a checkpoint says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from regroup.errors import CheckpointError
from regroup.files.documents import DocumentError, build, require


@dataclass(frozen=True)
class EpochResult:
    """One epoch of training and the test after it.

    Attributes:
        epoch: 1 for the first.
        step: steps done since the beginning of training.
        lr: learning rate of the last step.
        train_loss: mean over the epoch's steps, of the loss that was minimised (mixed, distilled, penalised).
        test_loss: mean cross-entropy over the test images.
        top1: test images whose best score is their class's, in percent.
        top5: ... whose class is among the best five, in percent; None for five classes or fewer.
        seconds: time for the epoch's training, the test not included; since the resume if it was resumed.
        images_per_second: training images of all processes in one of those seconds.
        plain_loss: where a moving average of the weights is what `test_loss` and the accuracies are of: the
            same of the weights themselves; else None.
        plain_top1: ... and their top-1 accuracy.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    test_loss: float
    top1: float
    top5: float | None
    seconds: float
    images_per_second: float
    plain_loss: float | None = None
    plain_top1: float | None = None

    @property
    def best_top1(self) -> float:
        """The higher accuracy, of the averaged weights and of the weights themselves."""
        return self.top1 if self.plain_top1 is None else max(self.top1, self.plain_top1)

    @property
    def best_is_averaged(self) -> bool:
        """Whether that is the average's."""
        return self.plain_top1 is not None and self.top1 >= self.plain_top1

    def to_json(self) -> dict[str, object]:
        """Return the fields as plain JSON values."""
        return asdict(self)


@dataclass
class History:
    """The results of all epochs so far, first to last."""

    epochs: list[EpochResult]

    @property
    def last(self) -> EpochResult:
        """The newest result."""
        return self.epochs[-1]

    @property
    def best(self) -> EpochResult:
        """The result with the highest top-1 accuracy, the earliest of equals."""
        return max(self.epochs, key=lambda result: result.best_top1)

    def to_json(self) -> list[dict[str, object]]:
        """Return one plain JSON object for each epoch."""
        return [result.to_json() for result in self.epochs]


@dataclass(frozen=True)
class Progress:
    """What the section "training" of a checkpoint holds."""

    step: int
    epoch_loss: Tensor
    history: list[EpochResult]
    scaler: dict[str, Any]

    @classmethod
    def of(cls, path: Path, sections: Mapping[str, Any]) -> Progress:
        """Return what the checkpoint in `path` says.

        Raises:
            CheckpointError: it says nothing, or something of other types, though its seal be whole.
        """
        try:
            found = build(sections["training"], cls)
            require(found.step >= 0, "step", found.step, "0 or more")
        except (KeyError, DocumentError) as error:
            raise CheckpointError(path, f"is not a checkpoint of training: {error}") from error
        return found
