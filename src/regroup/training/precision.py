"""COCO's average precision by pycocotools, and what it would be without each image.

The figures are `COCOeval`'s own. What is left out of them is computed of its matches, by the same rule:
detections of a class by falling score, precision at 101 recalls, the mean over ten thresholds of overlap
(https://github.com/cocodataset/cocoapi/blob/master/PythonAPI/pycocotools/cocoeval.py, accumulate).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regroup.errors import needed


def evaluated(shown: Tensor, found: Tensor, images: int, classes: Sequence[int]) -> Any:
    """Return pycocotools' COCOeval, summarised.

    Args:
        shown: objects that are there: image, x1, y1, x2, y2, class, area, whether it is a crowd.
        found: objects that were detected: image, x1, y1, x2, y2, class, score.
        images: how many there are.
        classes: their numbers.
    """
    coco, coco_eval = needed("pycocotools.coco", "see"), needed("pycocotools.cocoeval", "see")
    truth, seen = coco.COCO(), coco.COCO()
    common = {"images": [{"id": i} for i in range(images)], "categories": [{"id": c} for c in classes]}
    truth.dataset = {**common, "annotations": [_object(i, *row) for i, row in enumerate(shown.tolist(), 1)]}
    seen.dataset = {**common, "annotations": [_detection(i, *row) for i, row in enumerate(found.tolist(), 1)]}
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
        seen.createIndex()
        evaluation = coco_eval.COCOeval(truth, seen, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _object(number: int, image: float, *row: float) -> dict[str, Any]:
    *corners, label, area, crowd = row
    return _boxed(number, image, corners, label) | {"area": area, "iscrowd": int(crowd)}


def _detection(number: int, image: float, *row: float) -> dict[str, Any]:
    *corners, label, score = row
    return _boxed(number, image, corners, label) | {"score": score, "iscrowd": 0}


def _boxed(number: int, image: float, corners: Sequence[float], label: float) -> dict[str, Any]:
    left, top, right, bottom = corners
    width, height = right - left, bottom - top
    known = {"image_id": int(image), "category_id": int(label)}
    return {"id": number, "bbox": [left, top, width, height], "area": width * height, **known}


class Matches(NamedTuple):
    """Detections of one class by falling score, and whether they meet an object.

    Attributes:
        images: of each, (detections,).
        right: (thresholds, detections).
        wrong: likewise; neither is what meets a crowd.
        shown: objects of each image that count, (images,).
        recalls: at which precision is read.
    """

    images: NDArray[np.int64]
    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    shown: NDArray[np.int64]
    recalls: NDArray[np.float64]

    def precision(self, without: int | None = None) -> float:
        """Return the average precision, 0 to 1, of all images or of all but one; NaN if nothing is there."""
        objects = int(self.shown.sum()) - (0 if without is None else int(self.shown[without]))
        if not objects:
            return np.nan
        kept = slice(None) if without is None else self.images != without
        right, wrong = (np.cumsum(each[:, kept], axis=1, dtype=float) for each in (self.right, self.wrong))
        precision = right / (right + wrong + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found = 0.0
        for recall, each in zip(right / objects, best, strict=True):
            at = np.searchsorted(recall, self.recalls, side="left")
            found += float(each[at[at < len(each)]].sum())
        return found / (len(right) * len(self.recalls))

    def changed_by(self) -> NDArray[np.int64]:
        """Return the images without which the precision is another."""
        return np.union1d(self.images, np.flatnonzero(self.shown))


def matches(evaluation: Any) -> list[Matches]:
    """Return the matches of each class of a COCOeval, of objects of all sizes."""
    params = evaluation.params
    images, areas = len(params.imgIds), len(params.areaRng)
    found = []
    for k in range(len(params.catIds)):
        rows = evaluation.evalImgs[k * areas * images :][:images]
        there = [(i, row) for i, row in enumerate(rows) if row is not None]
        shown = np.zeros(images, np.int64)
        for i, row in there:
            shown[i] = np.count_nonzero(np.asarray(row["gtIgnore"]) == 0)
        scores = np.concatenate([row["dtScores"] for _, row in there] or [[]])
        order = np.argsort(-scores, kind="mergesort")
        numbers = np.concatenate([np.full(len(row["dtScores"]), i) for i, row in there] or [[]])
        none = np.zeros((len(params.iouThrs), 0))
        met, ignored = (
            np.concatenate([none, *(row[name] for _, row in there)], axis=1)[:, order].astype(bool)
            for name in ("dtMatches", "dtIgnore")
        )
        of = numbers.astype(np.int64)[order]
        found.append(Matches(of, met & ~ignored, ~met & ~ignored, shown, np.asarray(params.recThrs)))
    return found


def without_each(classes: Sequence[Matches], images: int) -> NDArray[np.float64]:
    """Return the mean average precision without each image, 0 to 1; NaN where nothing is left."""
    found = np.empty((len(classes), images))
    for row, each in zip(found, classes, strict=True):
        row[:] = each.precision()
        for image in each.changed_by():
            row[image] = each.precision(int(image))
    counted = (~np.isnan(found)).sum(0)
    return np.where(counted > 0, np.nansum(found, 0) / np.maximum(counted, 1), np.nan)
