"""Folders of images with boxes or masks, as people have them: COCO's JSON, VOC, YOLO's text, masks.

root/annotations/instances_train2017.json, instances_val2017.json; images in root/train2017, ... (COCO)
root/train/_annotations.coco.json, root/valid/...; images beside them (as Roboflow exports it)
root/Annotations, root/SegmentationClass, root/ImageSets; images in root/JPEGImages (VOC)
root/data.yaml, root/labels/train, root/labels/val; images in root/images/train, ... (YOLO)
root/train/images, root/train/masks, root/val/...; or root/images, root/masks, of which a fifth is set aside

A mask is a palette or grey image of the name of its image, whose levels are the numbers of classes, with 0
for the background and 255 for what counts for nothing; `classes.txt` names them, a line each. Images are
shown whole: what has other proportions is squashed, and boxes and masks with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regroup.errors import DataError, first_line
from regroup.spec import Size
from regroup.training.data.annotations import Shown, annotations_in
from regroup.training.data.augmentation import Augmentation
from regroup.training.data.dataset import IMAGENET_MEAN, IMAGENET_STD, BadImages, DataSet, digest_of
from regroup.training.data.images import fit, read_image, read_levels
from regroup.training.data.outlines import levels_of
from regroup.training.data.scan import BadImagesError, scan
from regroup.training.data.targets import IGNORED, Target, TargetSplit

_SLACK = 1.0  # pixels by which a box may reach out of its image: writers round


def annotated(
    image: Size | None = None,
    *,
    root: Path,
    task: str,
    bad_images: BadImages = "error",
    channels: int = 3,
) -> DataSet:
    """Return the data set in the folder `root`; `load_data` calls this for a path and another task.

    Args:
        image: (height, width); None: that of the images if all have the same, else 320 x 320.
        root: the folder.
        task: "segment" or "detect".
        bad_images: what cannot be used is listed by file in one error ("error"), or left out and noted.
        channels: 3 for colour, 1 for grey.

    Raises:
        DataError: it holds nothing of these kinds, or what it holds cannot be used; names each file.
    """
    train, test, classes = annotations_in(root, task)
    if task == "segment" and len(classes) > IGNORED:
        reason = f"has {len(classes)} classes with the background: masks have {IGNORED}, 0 to {IGNORED - 1}, "
        raise DataError(root, f"{reason}and {IGNORED} is what counts for nothing; leave some out")
    notes: list[str] = []
    usable = [_usable(root, part, classes, task, bad_images, notes) for part in (train, test)]
    sizes = {size for part in usable for _, size, _ in part}
    height, width = image or (sizes.pop() if len(sizes) == 1 else (320, 320))
    shape = channels, height, width
    splits = [AnnotatedSplit(root, part, shape, task) for part in usable]
    return DataSet(
        name=root.resolve().name,
        classes=tuple(classes),
        shape=shape,
        train=splits[0],
        test=splits[1],
        mean=IMAGENET_MEAN if channels == 3 else (0.45,),
        std=IMAGENET_STD if channels == 3 else (0.23,),
        augmentation=Augmentation("targets", flip=0.5),
        notes=tuple(notes),
        crop="squash",
        resample="bilinear",
        task=task,
    )


class AnnotatedSplit(TargetSplit):
    """Images in files, with objects or masks.

    Args:
        root: where names begin.
        files: each image with its size and the hash of its content.
        shape: (channels, height, width) that they are made.
        task: of the targets.
    """

    def __init__(
        self, root: Path, files: Sequence[tuple[Shown, Size, str]], shape: tuple[int, int, int], task: str
    ) -> None:
        self.shape, self.task, self._root, self._files = shape, task, root, list(files)
        self._remember(len(self._files))

    def name(self, index: int) -> str:
        return self._files[index][0].name

    def sample(self, index: int) -> tuple[Tensor, Target]:
        shown, (height, width), _ = self._files[index]
        picture = read_image(self._root / shown.name, self.shape[0])
        image = fit(picture, self.shape[1:], squash=True, resample="bilinear")
        if self.task == "segment":
            levels = _levels(self._root, shown, (height, width))
            rows, columns = (
                ((torch.arange(to) + 0.5) * of / to).long()
                for to, of in zip(self.shape[1:], levels.shape, strict=True)
            )
            return image, {"semantic": torch.from_numpy(levels).long()[rows][:, columns]}
        scale = torch.tensor([self.shape[2] / width, self.shape[1] / height] * 2)
        boxes = torch.tensor([_corners(each["bbox"], (height, width)) for each in shown.objects])
        numbers = {
            name: torch.tensor([each[name] for each in shown.objects], dtype=kind)
            for name, kind in (("label", torch.int64), ("area", torch.float32), ("iscrowd", torch.int64))
        }
        return image, {
            "boxes": boxes.reshape(-1, 4).float() * scale,
            "labels": numbers["label"],
            "area": numbers["area"],
            "iscrowd": numbers["iscrowd"],
            "size": torch.tensor([height, width]),
        }

    def digest(self) -> str:
        """Return a hash of names, annotations and contents as they were when the data set was opened."""
        return digest_of([(shown, digest) for shown, _, digest in self._files], list(self.shape), self.task)


def _corners(box: Sequence[float], size: Size) -> tuple[float, float, float, float]:
    """Return COCO's box as corners inside the image."""
    left, top, width, height = box
    right, bottom = min(left + width, size[1]), min(top + height, size[0])
    return max(left, 0.0), max(top, 0.0), right, bottom


def _levels(root: Path, shown: Shown, size: Size) -> np.ndarray:
    """Return the class of each pixel, uint8 (height, width)."""
    return read_levels(root / shown.mask) if shown.mask else levels_of(shown.objects, size)


def _usable(
    root: Path, files: list[Shown], classes: list[str], task: str, bad_images: BadImages, notes: list[str]
) -> list[tuple[Shown, Size, str]]:
    """Return what can be used of a split, after a look at each file."""
    names = [shown.name for shown in files] + [shown.mask for shown in files if shown.mask]
    facts = dict(zip(names, scan(root, names, f"{root.name} {task}"), strict=True))
    bad, found = {}, []
    for shown in files:
        fact = facts[shown.name]
        shown = shown.in_pixels(fact.size)
        problem = fact.problem or shown.problem or _problem(root, shown, fact.size, classes, task)
        if shown.mask and not problem:
            problem = facts[shown.mask].problem and f"its mask {shown.mask!r}: {facts[shown.mask].problem}"
        if problem:
            bad[shown.name] = problem
        else:
            mask = facts[shown.mask].digest if shown.mask else ""
            found.append((shown, fact.size, fact.digest + mask))
    if bad and bad_images == "error":
        raise BadImagesError(root, bad)
    if bad:
        first = "; ".join(f"{name!r} {reason}" for name, reason in list(bad.items())[:5])
        notes.append(f"{len(bad)} of {len(files)} images cannot be used and are skipped: {first}")
    if empty := sum(not shown.objects and not shown.mask for shown, _, _ in found):
        notes.append(f"{empty} of {len(found)} images show no object")
    return found


def _problem(root: Path, shown: Shown, size: Size, classes: list[str], task: str) -> str:
    """Return what is wrong with the annotation of an image, in words; "" if nothing is."""
    if shown.size not in (None, size):
        return f"its annotation says {shown.size[1]} x {shown.size[0]} pixels, it has {size[1]} x {size[0]}"  # type: ignore[unsupported-operation]
    for each in shown.objects:
        where = each["where"]
        if each["label"] is None:
            return f"{where} is of an unknown class: {each['category']!r}"
        left, top, width, height = each["bbox"]
        if width <= 0 or height <= 0:
            return f"{where} has a box of no area: {list(each['bbox'])}"
        inside = (
            min(left, top) >= -_SLACK
            and left + width <= size[1] + _SLACK
            and top + height <= size[0] + _SLACK
        )
        first, upper, last, lower = _corners(each["bbox"], size)
        if not inside or last <= first or lower <= upper:
            return f"{where} has a box outside of the image: {list(each['bbox'])}"
    if task != "segment":
        return ""
    try:
        levels = _levels(root, shown, size)
    except DataError as error:
        return f"its mask: {error.reason}"
    except Exception as error:  # pycocotools raises whatever an outline makes it trip over
        return f"has an outline that cannot be read: {first_line(error)}"
    if levels.shape != size:
        return f"its mask has {levels.shape[1]} x {levels.shape[0]} pixels, it has {size[1]} x {size[0]}"
    unknown = sorted(set(np.unique(levels).tolist()) - set(range(len(classes))) - {IGNORED})
    return f"its mask has levels that are no class: {unknown[:5]}" if unknown else ""
