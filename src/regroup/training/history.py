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
        test_loss: mean loss over the test images; None where a network that is tested has none.
        figures: how good it is on the test images, in percent, by name, such as top1; None is not defined.
            The first is the one by which networks are best.
        seconds: time for the epoch's training, the test not included; since the resume if it was resumed.
        images_per_second: training images of all processes in one of those seconds.
        plain_loss: where a moving average of the weights is what `test_loss` and the figures are of: the
            same of the weights themselves; else None.
        plain_figures: ... and their figures.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    test_loss: float | None
    figures: dict[str, float | None]
    seconds: float
    images_per_second: float
    plain_loss: float | None = None
    plain_figures: dict[str, float | None] | None = None

    @property
    def score(self) -> float:
        """The first of the figures."""
        return _first(self.figures)

    @property
    def plain_score(self) -> float | None:
        """The first of the figures of the weights themselves, where there is an average of them."""
        return None if self.plain_figures is None else _first(self.plain_figures)

    @property
    def best_score(self) -> float:
        """The higher score, of the averaged weights and of the weights themselves."""
        return self.score if self.plain_score is None else max(self.score, self.plain_score)

    @property
    def best_is_averaged(self) -> bool:
        """Whether that is the average's."""
        return self.plain_score is not None and self.score >= self.plain_score

    def line(self) -> dict[str, object]:
        """Return what the log says of the epoch: numbers by name."""
        fields = asdict(self)
        figures, plain = fields.pop("figures"), fields.pop("plain_figures") or dict.fromkeys(self.figures)
        return fields | figures | {f"plain_{name}": value for name, value in plain.items()}


def _first(figures: dict[str, float | None]) -> float:
    value = next(iter(figures.values()), None)
    return 0.0 if value is None else value


LABELS = {"top1": "top-1", "top5": "top-5", "miou": "mIoU", "dice": "Dice", "map": "mAP", "map50": "mAP50"}
"""How people write figures; others stand as they are called."""


def told(figures: Mapping[str, float | None]) -> str:
    """Return figures as people write them.

    >>> told({"top1": 93.25, "top5": None})
    'top-1 93.25 %'
    """
    known = {name: value for name, value in figures.items() if value is not None}
    return ", ".join(f"{LABELS.get(name, name)} {value:.2f} %" for name, value in known.items())


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
        """The result with the highest score, the earliest of equals."""
        return max(self.epochs, key=lambda result: result.best_score)

    def to_json(self) -> list[dict[str, Any]]:
        """Return one plain JSON object for each epoch."""
        return [asdict(result) for result in self.epochs]


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
