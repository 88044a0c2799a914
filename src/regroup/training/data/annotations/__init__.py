"""Annotations of images as people have them: a reader for each format, found by what a folder holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from regroup.errors import DataError
from regroup.training.data.annotations import coco, masks, voc, yolo
from regroup.training.data.annotations.shown import Annotations, Shown

__all__ = ["Annotations", "Shown", "annotations_in"]

_READERS: tuple[tuple[str, Callable[[Path, str], Annotations | None]], ...] = (
    ("annotations/instances_train*.json, or train/_annotations.coco.json (COCO)", coco.read),
    ("Annotations/*.xml, or SegmentationClass/*.png, beside JPEGImages (VOC)", voc.read),
    ("data.yaml, or labels beside images (YOLO)", yolo.read),
    ("images and masks, or such in train and val", masks.read),
)


def annotations_in(root: Path, task: str) -> Annotations:
    """Return what the images in a folder show, by the first format whose files it has.

    Args:
        root: the folder.
        task: "segment" or "detect".

    Raises:
        DataError: there are no annotations for this task, or they cannot be understood.
    """
    for _, read in _READERS:
        if (found := read(root, task)) is not None:
            return found
    known = "; ".join(what for what, read in _READERS if task == "segment" or read is not masks.read)
    raise DataError(root, f"has no annotations for the task {task}: {known}")
