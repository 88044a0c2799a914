"""Folders of images with boxes or masks, as people have them: COCO's JSON, and masks beside images.

root/annotations/instances_train2017.json, instances_val2017.json; images in root/train2017, ... (COCO)
root/train/_annotations.coco.json, root/valid/...; images beside them (as Roboflow exports it)
root/train/images, root/train/masks, root/val/...; or root/images, root/masks, of which a fifth is set aside

A mask is a palette or grey image of the name of its image, whose levels are the numbers of classes, with 0
for the background and 255 for what counts for nothing; `classes.txt` names them, a line each. Images are
shown whole: what has other proportions is squashed, and boxes and masks with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from regroup.errors import DataError, first_line
from regroup.files.documents import DocumentError, parse
from regroup.files.reading import read_file
from regroup.spec import Size
from regroup.training.data.augmentation import Augmentation
from regroup.training.data.dataset import IMAGENET_MEAN, IMAGENET_STD, BadImages, DataSet, digest_of
from regroup.training.data.images import SUFFIXES, fit, read_image, read_levels
from regroup.training.data.outlines import levels_of
from regroup.training.data.scan import BadImagesError, scan
from regroup.training.data.targets import IGNORED, Target, TargetSplit

_MOST_BYTES = 1 << 30
_TRAIN, _TEST = ("train",), ("val", "valid", "validation", "test")
_SLACK = 1.0  # pixels by which a box may reach out of its image: writers round


class Shown(NamedTuple):
    """An image file and what it shows, in pixels of the picture.

    Attributes:
        name: of the file, relative to the folder.
        size: height and width, as its annotation says; None: as the file has it.
        objects: rows of COCO's annotations, with `label` in the place of the category.
        mask: name of the file of its mask; "" if it has none.
    """

    name: str
    size: Size | None
    objects: tuple[Mapping[str, Any], ...] = ()
    mask: str = ""


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
    if documents := _coco_files(root):
        parts, classes = _of_coco(root, documents)
    elif task == "segment":
        parts, classes = _of_masks(root)
    else:
        raise DataError(
            root, "has no annotations: annotations/instances_train*.json, or train/_annotations.coco.json"
        )
    if task == "segment" and len(classes) > IGNORED:
        reason = f"has {len(classes)} classes with the background: masks have {IGNORED}, 0 to {IGNORED - 1}, "
        raise DataError(root, f"{reason}and {IGNORED} is what counts for nothing; leave some out")
    notes: list[str] = []
    usable = [_usable(root, part, classes, task, bad_images, notes) for part in parts]
    sizes = {size for part in usable for _, size, _ in part}
    height, width = image or (sizes.pop() if len(sizes) == 1 else (320, 320))
    shape = channels, height, width
    train, test = (AnnotatedSplit(root, part, shape, task) for part in usable)
    return DataSet(
        name=root.resolve().name,
        classes=tuple(classes),
        shape=shape,
        train=train,
        test=test,
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
        problem = fact.problem or _problem(root, shown, fact.size, classes, task)
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
    for number, each in enumerate(shown.objects, 1):
        if each["label"] is None:
            return f"object {number} is of an unknown category"
        left, top, width, height = each["bbox"]
        if width <= 0 or height <= 0:
            return f"object {number} has a box of no area: {list(each['bbox'])}"
        inside = (
            min(left, top) >= -_SLACK
            and left + width <= size[1] + _SLACK
            and top + height <= size[0] + _SLACK
        )
        first, upper, last, lower = _corners(each["bbox"], size)
        if not inside or last <= first or lower <= upper:
            return f"object {number} has a box outside of the image: {list(each['bbox'])}"
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


def _of_masks(root: Path) -> tuple[list[list[Shown]], list[str]]:
    """Return the images of both splits, and the classes, of folders of images and of masks."""
    parts = [
        _paired(root, root / name) for names in (_TRAIN, _TEST) for name in names if (root / name).is_dir()
    ][:2]
    if len(parts) < 2:
        if not (root / "images").is_dir():
            raise DataError(root, "has no folders images and masks, nor such in train and val")
        both = _paired(root, root)
        chosen = {each.name for each in both if hashlib.sha256(each.name.encode()).digest()[0] < 51} or {
            both[0].name
        }
        parts = [[each for each in both if (each.name in chosen) == test] for test in (False, True)]
    listed = root / "classes.txt"
    if listed.is_file():
        lines = read_file(listed, most=1 << 20).decode(errors="replace").splitlines()
        return parts, [line.strip() for line in lines if line.strip()]
    most = 1
    for shown in (each for part in parts for each in part):
        levels = read_levels(root / shown.mask)
        most = max(most, int(levels[levels != IGNORED].max(initial=0)))
    return parts, ["background", *map(str, range(1, most + 1))]


def _paired(root: Path, top: Path) -> list[Shown]:
    masks = {path.stem: path for path in sorted((top / "masks").glob("*")) if path.suffix.lower() in SUFFIXES}
    images = [path for path in sorted((top / "images").glob("*")) if path.suffix.lower() in SUFFIXES]
    if lonely := [path.name for path in images if path.stem not in masks]:
        raise BadImagesError(top, dict.fromkeys(lonely, "has no mask of its name"))
    if not images:
        raise DataError(top, "has no images in a folder 'images'")
    return [Shown(str(p.relative_to(root)), None, (), str(masks[p.stem].relative_to(root))) for p in images]


def _coco_files(root: Path) -> list[Path]:
    """Return the JSON files of the training and the test split; nothing if there are no such."""
    found = []
    for names in (_TRAIN, _TEST):
        places = [path for name in names for path in sorted((root / "annotations").glob(f"*{name}*.json"))]
        places += [root / name / "_annotations.coco.json" for name in names]
        there = [path for path in places if path.is_file()]
        if not there:
            return []
        found.append(next((path for path in there if path.name.startswith("instances")), there[0]))
    return found


def _of_coco(root: Path, documents: Sequence[Path]) -> tuple[list[list[Shown]], list[str]]:
    read = [_document(path) for path in documents]
    named = {(row["id"], str(row["name"])) for found in read for row in found["categories"]}
    categories = sorted(named, key=lambda pair: (isinstance(pair[0], str), pair))
    labels = {number: label for label, (number, _) in enumerate(categories, 1)}
    if len(labels) < len(categories):
        raise DataError(documents[1], f"has other names of categories than {documents[0].name}")
    parts = [_shown(root, path, found, labels) for path, found in zip(documents, read, strict=True)]
    return parts, ["background", *(name for _, name in categories)]


def _document(path: Path) -> dict[str, Any]:
    try:
        found = parse(read_file(path, most=_MOST_BYTES))
        for name, keys in (
            ("images", ("id", "file_name")),
            ("categories", ("id", "name")),
            ("annotations", ()),
        ):
            if not isinstance(found[name], list) or any(
                key not in row for row in found[name] for key in keys
            ):
                raise DocumentError(f"{name} is no list of objects with {', '.join(keys) or 'fields'}")
            numbers = [row["id"] for row in found[name]] if keys else []
            if not all(type(number) in (int, str) for number in numbers):
                raise DocumentError(f"an id in {name} is neither a whole number nor a text")
            if name == "images" and len(set(numbers)) < len(numbers):
                raise DocumentError("two images have one id")
        return found
    except OSError as error:
        raise DataError(path, error.strerror or str(error)) from error
    except (DocumentError, KeyError, TypeError) as error:
        raise DataError(path, f"is no data set in COCO's format: {first_line(error)}") from error


def _shown(root: Path, path: Path, found: dict[str, Any], labels: Mapping[Any, int]) -> list[Shown]:
    objects: dict[Any, list[dict[str, Any]]] = {row["id"]: [] for row in found["images"]}
    for number, row in enumerate(found["annotations"], 1):
        try:
            objects[row["image_id"]].append(_object(row, labels))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise DataError(path, f"annotation {number} cannot be understood: {error!r}") from error
    split = path.parent if path.parent.name != "annotations" else root / path.stem.rpartition("_")[2]
    places = (split, root / "images" / split.name, root / "images", root)
    files = []
    for number, row in enumerate(found["images"], 1):
        if not isinstance(row["file_name"], str):
            raise DataError(path, f"image {number} has no text as its file_name: {row['file_name']!r}")
        named = [place / row["file_name"] for place in places]
        file = next((each for each in named if each.exists()), named[0]).absolute()
        if not file.is_relative_to(root.absolute()):
            raise DataError(path, f"image {number} is outside of the folder {root}: {row['file_name']!r}")
        size = (row["height"], row["width"]) if "height" in row and "width" in row else None
        name = file.relative_to(root.absolute())
        files.append(Shown(str(name), size, tuple(objects[row["id"]])))
    return files


def _object(row: Mapping[str, Any], labels: Mapping[Any, int]) -> dict[str, Any]:
    left, top, width, height = (float(value) for value in row["bbox"])
    crowd, area = row.get("iscrowd", 0), float(row.get("area", width * height))
    if crowd not in (0, 1) or not 0 <= area < 1 << 53:
        raise ValueError(f"iscrowd is {crowd!r} and area {area!r}")
    return {
        "bbox": [left, top, width, height],
        "label": labels.get(row["category_id"]),
        "iscrowd": int(crowd),
        "area": area,
        "segmentation": row.get("segmentation", []),
    }
