"""Classification: which class an image is of. Accuracy, cross-entropy, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from regroup.errors import ConfigError
from regroup.spec import Size
from regroup.training.config import TrainConfig
from regroup.training.data import Batch, DataSet
from regroup.training.evaluation import wilson
from regroup.training.tasks import Meter, Metrics, Task, Total, tasks

BINS = 15
"""Of the calibration error: as many as in the paper."""


@dataclass(frozen=True)
class Accuracy(Metrics):
    """How well a network classifies.

    Attributes:
        loss: mean cross-entropy.
        images: how many there were.
        top1: images whose best score is their class's, in percent.
        top5: images whose class is among the best five, in percent; None for five classes or fewer.
        ece: expected calibration error, as a share: by how much the confidence of the best class differs from
            how often it is right, in 15 bins of equal width, weighted by their images (Guo, Pleiss, Sun and
            Weinberger, On Calibration of Modern Neural Networks, 2017, equation 3).
    """

    top1: float
    top5: float | None
    ece: float

    @property
    def figures(self) -> dict[str, float | None]:
        return {"top1": self.top1, "top5": self.top5}

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `top1`, Wilson's (1927), in percent."""
        low, high = wilson(round(self.top1 * self.images / 100), self.images)
        return 100 * low, 100 * high

    def told(self) -> dict[str, str]:
        low, high = self.top1_interval
        fifth = {} if self.top5 is None else {"top-5": f"{self.top5:.2f} %"}
        return {
            "top-1": f"{self.top1:.2f} %  (95 %: {low:.2f} .. {high:.2f})",
            **fifth,
            "loss": f"{self.loss:.4f}",
            "calibration error": f"{100 * self.ece:.2f} %",
        }

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "top1_interval": list(self.top1_interval)}


class _Counts(Meter):
    """One tensor of counts, which `_counts` gives of a batch."""

    def __init__(self, least: int) -> None:
        self._least, self._classes = least, 0
        self._counts = torch.zeros(4 + 3 * BINS, dtype=torch.float64)

    def add(self, found: Tensor, batch: Batch) -> None:
        scores = found.float()
        self._classes = scores.shape[1]
        if self._classes < self._least:
            allowed = f"a network of {self._least} classes or more"
            raise ConfigError("model", f"{self._classes} classes", allowed)
        self._counts = self._counts.to(scores.device) + _counts(scores, batch.labels)

    def result(self, total: Total) -> Accuracy:
        loss, first, fifth, images, *bins = total(self._counts).tolist()
        top5 = 100 * fifth / images if self._classes > 5 else None
        right, confident = bins[BINS : 2 * BINS], bins[2 * BINS :]
        ece = sum(abs(r - c) for r, c in zip(right, confident, strict=True)) / images
        return Accuracy(loss / images, int(images), 100 * first / images, top5, ece)


def _counts(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of losses, right at the first, right within five, images; no wait for a GPU.

    And by bins of the confidence: images, those that are right, the sum of the confidence.
    """
    loss = functional.cross_entropy(scores, labels, reduction="sum")
    best = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]
    images = torch.full_like(loss, len(labels))
    confidence = scores.double().softmax(1).amax(1)
    ends = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=scores.device)[1:-1]
    bins = torch.zeros(3, BINS, dtype=torch.float64, device=scores.device)
    values = torch.stack([torch.ones_like(confidence), best[:, 0].double(), confidence])
    bins.index_add_(1, torch.bucketize(confidence, ends), values)
    plain = torch.stack([loss.double(), best[:, 0].sum(), best.sum(), images])
    return torch.cat([plain, bins.flatten()])


class Classify(Task):
    """images (N, channels, height, width) -> scores (N, classes), before any softmax."""

    name = "classify"
    measure = "accuracy"
    columns = ("class", "name", "probability")
    gives = "a score for each of {} classes"

    def loss(self, model: nn.Module, batch: Batch, config: TrainConfig, teacher: nn.Module | None) -> Tensor:
        """Return the cross-entropy.

        With a teacher, (1 - a) CE + a T^2 KL(teacher at T || student at T): Hinton et al. 2015, section 2.
        """
        scores = model(batch.images).float()
        smoothing = 0.0 if batch.labels.is_floating_point() else config.smoothing
        loss = functional.cross_entropy(scores, batch.labels, label_smoothing=smoothing)
        if teacher is None:
            return loss
        with torch.no_grad():
            wanted = teacher(batch.images).float()
        softened = distillation(scores, wanted, config.distillation_temperature)
        return torch.lerp(loss, softened, config.distillation_alpha)

    def meter(self, data: DataSet | None) -> Meter:
        return _Counts(0 if data is None else len(data.classes))

    def misfit(self, found: Any, images: Tensor, classes: int | None) -> str:
        shape = tuple(found.shape) if isinstance(found, Tensor) else ()
        if len(shape) != 2 or len(found) != len(images):
            return f"output of shape {shape}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        return f"{shape[1]} classes" if classes not in (None, shape[1]) else ""

    def classes_of(self, model: nn.Module, found: Tensor) -> int:
        return found.shape[1]

    def seen(self, found: Tensor, shape: Size, sizes: Sequence[Size]) -> list[Tensor]:
        return list(found.softmax(1))

    def answers(self, seen: Tensor, names: Sequence[str], top: int) -> list[dict[str, Any]]:
        best = seen.topk(min(top, len(seen)))
        return [
            {"class": number, "name": names[number] if names else "", "probability": value}
            for value, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def distillation(scores: Tensor, wanted: Tensor, heat: float) -> Tensor:
    """Return T^2 KL(teacher at T || student at T), the mean over images, and over pixels if there are some.

    Args:
        scores: of the student, (N, classes, ...).
        wanted: of the teacher, likewise.
        heat: the temperature T that softens both.
    """
    student, teacher = (functional.log_softmax(x / heat, dim=1).movedim(1, -1) for x in (scores, wanted))
    student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
    return heat**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


tasks.add("classify", Classify())
