"""Detection: which objects an image shows, and where. torchvision's losses, COCO's average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regroup.errors import ConfigError
from regroup.spec import Size
from regroup.training.config import TrainConfig
from regroup.training.data import Batch, DataSet
from regroup.training.jackknife import shares
from regroup.training.precision import Matches, evaluated, matches, without_each
from regroup.training.tasks import Meter, Metrics, Task, Total, tasks

SURE = 0.5
"""Score from which on an object is drawn."""

_TRUTH = ("boxes", "labels", "area", "iscrowd")


@dataclass(frozen=True)
class Precision(Metrics):
    """How well a network detects, by COCO's measures as pycocotools computes them, in percent.

    Attributes:
        loss: None: torchvision's detectors have losses in training mode alone.
        images: how many there were.
        map: average precision, the mean over classes, and over intersections over union from .50 to .95.
        map50: at .50.
        map75: at .75.
        map_small: of objects of less than 32 x 32 pixels; None where there are none.
        map_medium: of those below 96 x 96.
        map_large: of larger ones.
        recall: average recall of 100 detections an image.
        classes: `map` of each class by name; None where no image shows it.
        matches: of which detections these are the figures.
    """

    map: float | None
    map50: float | None
    map75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    recall: float | None
    classes: dict[str, float | None]
    matches: tuple[Matches, ...] = field(default=(), repr=False, compare=False)

    @property
    def figures(self) -> dict[str, float | None]:
        return {"map": self.map, "map50": self.map50, "map75": self.map75, "recall": self.recall}

    def told(self) -> dict[str, str]:
        sizes = {"small": self.map_small, "medium": self.map_medium, "large": self.map_large}
        return {
            "mAP": _percent(self.map) + self.told_interval(),
            "mAP50": _percent(self.map50),
            "mAP75": _percent(self.map75),
            "by size": "  ".join(f"{n} {v:.1f}" for n, v in sizes.items() if v is not None),
            "recall": _percent(self.recall),
            "mAP of classes": "  ".join(f"{n} {v:.1f}" for n, v in self.classes.items() if v is not None),
        }

    def each(self) -> np.ndarray | None:
        if self.map is None:
            return None
        return shares(self.map / 100, without_each(self.matches, self.images))


def _percent(value: float | None) -> str:
    return "not defined: the images show no objects" if value is None else f"{value:.2f} %"


class _Boxes(Meter):
    """What images show and what was found in them, as rows by the number of the image."""

    def __init__(self, data: DataSet) -> None:
        self._data = data
        self._shown: dict[int, Tensor] = {}
        self._found: dict[int, Tensor] = {}

    def add(self, found: Any, batch: Batch) -> None:
        """Take boxes; sizes and areas are those of the picture, whatever the network is shown."""
        height, width = self._data.image
        most = len(self._data.classes)
        for index, seen, truth in zip(batch.indices.tolist(), found, batch.labels, strict=True):
            if len(seen["labels"]) and int(seen["labels"].max()) >= most:
                raise ConfigError(
                    "model", f"class {int(seen['labels'].max())}", f"a network of {most} classes"
                )
            rows, columns = truth["size"].tolist()
            scale = torch.tensor([columns / width, rows / height] * 2, dtype=torch.float64)

            def rescaled(boxes: Tensor, scale: Tensor = scale) -> Tensor:
                return boxes.double().cpu() * scale

            known = [truth[name].double().cpu()[:, None] for name in _TRUTH[1:]]
            self._shown[index] = torch.cat([rescaled(truth["boxes"]), *known], 1)
            sure = [seen[name].double().cpu()[:, None] for name in ("labels", "scores")]
            self._found[index] = torch.cat([rescaled(seen["boxes"]), *sure], 1)

    def result(self, total: Total) -> Precision:
        images = len(self._data.test)
        shown, found = (
            _of_all(rows, images, columns, total) for rows, columns in ((self._shown, 7), (self._found, 6))
        )
        names = self._data.classes
        return average_precision(shown, found, images, names)


def _of_all(rows: dict[int, Tensor], images: int, columns: int, total: Total) -> Tensor:
    """Return the rows of all processes, each with the number of its image before it."""
    counts = torch.zeros(images, dtype=torch.float64)
    for index, part in rows.items():
        counts[index] = len(part)
    ends = total(counts).long().cumsum(0)
    table = torch.zeros(int(ends[-1]), columns + 1, dtype=torch.float64)
    for index, part in rows.items():
        start = int(ends[index]) - len(part)
        table[start : start + len(part), 0] = index
        table[start : start + len(part), 1:] = part
    return total(table)


def average_precision(shown: Tensor, found: Tensor, images: int, names: Sequence[str]) -> Precision:
    """Return COCO's measures.

    Args:
        shown: objects that are there: image, x1, y1, x2, y2, class, area, whether it is a crowd.
        found: objects that were detected: image, x1, y1, x2, y2, class, score.
        images: how many there are.
        names: of the classes; the first is the background.
    """
    evaluation = evaluated(shown, found, images, range(1, len(names)))
    names_of_stats = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
    stats = [None if value < 0 else 100 * float(value) for value in evaluation.stats]
    known = dict(zip(names_of_stats, stats, strict=False))
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # of thresholds, recalls, classes: all areas
    each = [_mean(precision[:, :, k]) for k in range(precision.shape[2])]
    classes = dict(zip(names[1:], each, strict=True))
    met = tuple(matches(evaluation))
    return Precision(loss=None, images=images, recall=stats[8], classes=classes, matches=met, **known)


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return 100 * float(known.mean()) if len(known) else None


class Detect(Task):
    """images (N, C, H, W) -> a dictionary of boxes, labels and scores for each; with targets: losses."""

    name = "detect"
    measure = "mAP"
    columns = ("class", "name", "score", "box")
    gives = "boxes, labels of {} classes, the background among them, and scores for each image"
    requires = ("pycocotools.cocoeval",)
    shareable = False  # what a detector computes depends on what it finds
    unused = (
        "mixup",
        "cutmix",
        "aa",
        "smoothing",
        "distillation_alpha",
        "distillation_temperature",
        "teacher",
    )
    defaults = {
        "model": "fcos:resnet_small",
        "model_options": (
            "depths=[1,1,1,1]",
            "widths=[16,32,64,128]",
            "first_level=2",
            "pyramid_channels=64",
            "head_convs=2",
        ),
        "data": "scenes",
        "opt": "adamw",
        "lr": 2e-3,
        "weight_decay": 1e-2,
        "batch_size": 16,
        "warmup_epochs": 0.5,
        "clip_grad": 5.0,
    }

    def loss(self, model: nn.Module, batch: Batch, config: TrainConfig, teacher: nn.Module | None) -> Tensor:
        """Return the sum of the detector's losses; crowds are not learned from."""
        targets = [
            {name: target[name][target["iscrowd"] == 0] for name in ("boxes", "labels")}
            for target in batch.labels
        ]
        losses = model(batch.images, targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def meter(self, data: DataSet | None) -> Meter:
        assert data is not None  # its task says that it is
        return _Boxes(data)

    def attempt(self, model: nn.Module, data: DataSet, count: int, device: torch.device) -> Any:
        """Show blank images, with one object each in training mode."""
        images = torch.zeros(count, *data.shape, device=device)
        if not model.training:
            return model(images)
        height, width = data.image
        boxes = torch.tensor([[0.0, 0.0, width / 2, height / 2]], device=device)
        target = {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64, device=device)}
        return model(images, [target] * count)

    def misfit(self, found: Any, images: Tensor, classes: int | None) -> str:
        wanted = {"boxes", "labels", "scores"}
        if not isinstance(found, (list, tuple)) or not all(isinstance(each, dict) for each in found):
            return (
                f"output of shape {tuple(found.shape)}"
                if isinstance(found, Tensor)
                else f"a {type(found).__name__}"
            )
        if len(found) != len(images) or any(wanted - each.keys() for each in found):
            return (
                f"{len(found)} dictionaries for {len(images)} images, or without {', '.join(sorted(wanted))}"
            )
        return ""

    def check(self, what: str, model: nn.Module, data: DataSet, device: torch.device) -> None:
        super().check(what, model, data, device)
        classes = self.classes_of(model, None)
        if classes != len(data.classes):
            allowed = f"a detector of {len(data.classes)} classes, the background among them"
            raise ConfigError(what, f"{classes} classes", allowed)

    def classes_of(self, model: nn.Module, found: Any) -> int:
        """Return what the detector says of its classes, the background among them; 0 if it does not say."""
        for module in model.modules():
            if hasattr(module, "cls_score"):
                return int(module.cls_score.out_features)  # type: ignore[missing-attribute, bad-argument-type]
            if hasattr(module, "classification_head"):
                head: Any = module.classification_head
                return getattr(head, "num_classes", None) or getattr(head, "num_columns", 0)
        return 0

    def seen(self, found: Any, shape: Size, sizes: Sequence[Size]) -> list[dict[str, Tensor]]:
        """Return boxes, labels and scores of each image, the boxes in pixels of the picture."""
        scales = [torch.tensor([width / shape[1], height / shape[0]] * 2) for height, width in sizes]
        return [
            {**{name: value.cpu() for name, value in each.items()}, "boxes": each["boxes"].cpu() * scale}
            for each, scale in zip(found, scales, strict=True)
        ]

    def answers(self, seen: dict[str, Tensor], names: Sequence[str], top: int) -> list[dict[str, Any]]:
        order = seen["scores"].argsort(descending=True, stable=True)[:top]
        rows = zip(*(seen[name][order].tolist() for name in ("labels", "scores", "boxes")), strict=True)
        return [
            {
                "class": label,
                "name": names[label] if label < len(names) else "",
                "score": score,
                "box": [round(value, 2) for value in (left, top_, right - left, bottom - top_)],
            }
            for label, score, (left, top_, right, bottom) in rows
        ]

    def draw(self, picture: Tensor, seen: dict[str, Tensor], names: Sequence[str]) -> Tensor:
        from torchvision.utils import draw_bounding_boxes

        from regroup.training.tasks.segment import colour

        sure = seen["scores"] >= SURE
        if not sure.any():
            return picture
        labels = seen["labels"][sure].tolist()
        said = [names[label] if label < len(names) else str(label) for label in labels]
        colours: list[Any] = [colour(label) for label in labels]
        boxes = seen["boxes"][sure]
        return draw_bounding_boxes(picture, boxes, said, colours, width=2)


tasks.add("detect", Detect())
