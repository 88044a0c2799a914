"""Segmentation: what each pixel shows. Cross-entropy and Dice loss; mIoU and Dice, also class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from regroup.errors import ConfigError, needed
from regroup.spec import Size
from regroup.training.config import TrainConfig
from regroup.training.data import Batch, DataSet
from regroup.training.data.targets import IGNORED
from regroup.training.jackknife import shares
from regroup.training.tasks import Meter, Metrics, Task, Total, tasks
from regroup.training.tasks.classify import distillation

AUXILIARY = 0.5
"""Weight of the loss of an auxiliary head, as in torchvision's reference training of segmentation."""


@dataclass(frozen=True)
class Overlap(Metrics):
    """How well a network segments.

    Attributes:
        loss: mean cross-entropy over pixels and images.
        images: how many there were.
        miou: mean over the classes of intersection over union of all pixels (Everingham et al., The Pascal
            Visual Object Classes Challenge, 2010, section 4.4), in percent. Classes that nothing shows and
            nobody has seen do not count.
        objects_miou: likewise, without the background.
        dice: mean over the classes of the Dice coefficient 2 I / (A + B), in percent.
        classes: intersection over union of each class by name, in percent; None as above.
        counts: pixels of each image of which these are the figures, (images, 3, classes).
    """

    miou: float
    objects_miou: float
    dice: float
    classes: dict[str, float | None]
    counts: np.ndarray = field(repr=False, compare=False)

    @property
    def figures(self) -> dict[str, float | None]:
        return {"miou": self.miou, "objects_miou": self.objects_miou, "dice": self.dice}

    def told(self) -> dict[str, str]:
        each = [f"{name} {value:.1f}" for name, value in self.classes.items() if value is not None]
        return {
            "mIoU": f"{self.miou:.2f} %" + self.told_interval(),
            "without background": f"{self.objects_miou:.2f} %",
            "Dice": f"{self.dice:.2f} %",
            "loss": f"{self.loss:.4f}",
            "IoU": "  ".join(each),
        }

    def each(self) -> np.ndarray:
        iou, _ = overlap(self.counts.sum(0) - self.counts)
        counted = (~np.isnan(iou)).sum(1)
        without = np.where(counted > 0, np.nansum(iou, 1) / np.maximum(counted, 1), np.nan)
        return shares(self.miou / 100, without)


def counted(scores: Tensor, masks: Tensor) -> Tensor:
    """Return what the measures are made of: (3, N, classes) float64 pixels of each image and class.

    >>> scores = torch.tensor([[[[9.0, 0]], [[0, 9.0]]]])
    >>> counted(scores, torch.tensor([[[0, 0]]])).tolist()
    [[[1.0, 0.0]], [[2.0, 0.0]], [[1.0, 1.0]]]

    Args:
        scores: (N, classes, height, width).
        masks: int64 (N, height, width); pixels of `IGNORED` are left out.

    Returns:
        Pixels that are seen rightly; that show the class; that are seen as it.
    """
    classes, seen = scores.shape[1], scores.argmax(1).flatten(1)
    shown, known = masks.flatten(1), (masks != IGNORED).flatten(1)
    right = known & (seen == shown)

    def of_class(labels: Tensor, chosen: Tensor) -> Tensor:
        found = torch.zeros(len(labels), classes + 1, dtype=torch.float64, device=labels.device)
        ones = torch.ones_like(labels, dtype=torch.float64)
        return found.scatter_add_(1, torch.where(chosen, labels, classes), ones)[:, :classes]

    return torch.stack([of_class(seen, right), of_class(shown, known), of_class(seen, known)])


def overlap(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intersection over union and Dice of (..., 3, classes) counts: (..., classes), NaN of nothing."""
    right, shown, seen = np.moveaxis(pixels, -2, 0)
    with np.errstate(invalid="ignore"):
        return right / (shown + seen - right), 2 * right / (shown + seen)


class _Pixels(Meter):
    """Counts of each image and class at the image's number, so that all processes' can be added."""

    def __init__(self, data: DataSet) -> None:
        self._data = data
        self._counts = torch.zeros(3, len(data.test), len(data.classes), dtype=torch.float64)
        self._loss = torch.zeros(2, dtype=torch.float64)

    def add(self, found: Any, batch: Batch) -> None:
        scores = scores_of(found).float()
        if scores.shape[1] != len(self._data.classes):
            allowed = f"a network of {len(self._data.classes)} classes"
            raise ConfigError("model", f"{scores.shape[1]} classes", allowed)
        loss = functional.cross_entropy(scores, batch.labels, ignore_index=IGNORED, reduction="sum")
        pixels = (batch.labels != IGNORED).sum()
        self._counts, self._loss = self._counts.to(scores.device), self._loss.to(scores.device)
        self._loss += torch.stack([loss.double(), pixels.double()])
        self._counts[:, batch.indices.to(scores.device)] += counted(scores, batch.labels)

    def result(self, total: Total) -> Overlap:
        loss, pixels = total(self._loss).tolist()
        counts = total(self._counts).movedim(0, 1).cpu().numpy()
        iou, dice = overlap(counts.sum(0))
        names, each = self._data.classes, (100 * iou).tolist()
        return Overlap(
            loss=loss / max(pixels, 1),
            images=len(counts),
            miou=_mean(iou),
            objects_miou=_mean(iou[1:]),
            dice=_mean(dice),
            classes={n: None if np.isnan(v) else v for n, v in zip(names, each, strict=True)},
            counts=counts,
        )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return 100 * float(known.mean()) if len(known) else 0.0


def scores_of(found: Any) -> Tensor:
    """Return the scores of pixels among what a network gives: a tensor, or torchvision's dictionary."""
    return found["out"] if isinstance(found, Mapping) else found


class Segment(Task):
    """images (N, channels, height, width) -> scores (N, classes, height, width), or {"out": scores}."""

    name = "segment"
    measure = "mIoU"
    columns = ("class", "name", "share")
    gives = "scores of {} classes for each pixel, (N, classes, height, width)"
    requires = ("segmentation_models_pytorch.losses",)
    unused = ("mixup", "cutmix", "aa")
    defaults = {
        "model": "unet:resnet_small",
        "model_options": ("depths=[1,1,1,1]", "widths=[16,32,64,128]"),
        "data": "scenes",
        "opt": "adamw",
        "lr": 2e-3,
        "weight_decay": 1e-2,
        "batch_size": 16,
        "warmup_epochs": 0.5,
    }

    def loss(self, model: nn.Module, batch: Batch, config: TrainConfig, teacher: nn.Module | None) -> Tensor:
        """Return cross-entropy plus Dice loss (Milletari, Navab and Ahmadi 2016) of the main output.

        With half of an auxiliary head's, where there is one; with a teacher, as for classes, pixel by pixel.
        """
        found = model(batch.images)
        scores = scores_of(found).float()
        loss = _loss(scores, batch.labels, config.smoothing)
        if isinstance(found, Mapping) and "aux" in found:
            loss = loss + AUXILIARY * _loss(found["aux"].float(), batch.labels, config.smoothing)
        if teacher is None:
            return loss
        with torch.no_grad():
            wanted = scores_of(teacher(batch.images)).float()
        softened = distillation(scores, wanted, config.distillation_temperature)
        return torch.lerp(loss, softened, config.distillation_alpha)

    def meter(self, data: DataSet | None) -> Meter:
        assert data is not None  # its task says that it is
        return _Pixels(data)

    def misfit(self, found: Any, images: Tensor, classes: int | None) -> str:
        if isinstance(found, Mapping) and "out" not in found:
            return f"a dictionary of {', '.join(map(str, found))}"
        scores = scores_of(found)
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else ()
        if len(shape) != 4 or (shape[0], *shape[2:]) != (len(images), *images.shape[2:]):
            return f"output of shape {shape}" if shape else f"a {type(found).__name__}"
        return f"{shape[1]} classes" if classes not in (None, shape[1]) else ""

    def classes_of(self, model: nn.Module, found: Any) -> int:
        return scores_of(found).shape[1]

    def seen(self, found: Any, shape: Size, sizes: Sequence[Size]) -> list[Tensor]:
        """Return the class of each pixel, uint8 (height, width): scores are resized, then compared."""
        return [
            functional.interpolate(scores[None], size, mode="bilinear").argmax(1)[0].to(torch.uint8)
            for scores, size in zip(scores_of(found).float(), sizes, strict=True)
        ]

    def answers(self, seen: Tensor, names: Sequence[str], top: int) -> list[dict[str, Any]]:
        """Return which part of the picture each class has, but for the background's."""
        shares = seen.flatten().long().bincount() / seen.numel()
        order = [number for number in shares.argsort(descending=True).tolist() if number and shares[number]]
        return [
            {"class": number, "name": names[number] if names else "", "share": float(shares[number])}
            for number in order[:top]
        ]

    def mask(self, seen: Tensor) -> Tensor:
        return seen

    def draw(self, picture: Tensor, seen: Tensor, names: Sequence[str]) -> Tensor:
        from torchvision.utils import draw_segmentation_masks

        classes = [number for number in seen.unique().tolist() if number]
        if not classes:
            return picture
        masks = torch.stack([seen == number for number in classes])
        return draw_segmentation_masks(picture, masks, 0.6, [colour(number) for number in classes])


def palette() -> list[int]:
    """Return the colours of 256 classes as an image file has them: red, green, blue of each in turn."""
    return [level for number in range(256) for level in colour(number)]


def colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a class as Pascal VOC has it: the bits of its number, dealt to red, green, blue.

    >>> colour(1), colour(2), colour(7)
    ((128, 0, 0), (0, 128, 0), (128, 128, 128))
    """
    red, green, blue = (
        sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
    )
    return red, green, blue


def _loss(scores: Tensor, masks: Tensor, smoothing: float) -> Tensor:
    losses = needed("segmentation_models_pytorch.losses", "see")
    dice = losses.DiceLoss("multiclass", ignore_index=IGNORED)(scores, masks)
    entropy = functional.cross_entropy(
        scores, masks, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
    )
    known = (masks != IGNORED).sum().clamp(min=1)  # a batch may show nothing that counts
    return entropy / known + dice


tasks.add("segment", Segment())
