"""What a reader of annotations gives: image files, and what each of them shows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from regroup.errors import DataError
from regroup.files.reading import read_file
from regroup.spec import Size
from regroup.training.data.images import SUFFIXES

TRAIN, TEST = ("train",), ("val", "valid", "validation", "test")
"""What the two splits are called."""

MOST_BYTES = 16 << 20
"""Bytes that a list of names or a file of labels may have."""


class Shown(NamedTuple):
    """An image file and what it shows, in pixels of the picture.

    Attributes:
        name: of the file, relative to the folder.
        size: height and width, as its annotation says; None: as the file has it.
        objects: rows of COCO's annotations, with `label` beside the category (None: it is unknown), and
            `where`: the file and the line, or the number, of the annotation.
        mask: name of the file of its mask; "" if it has none.
        problem: why its annotation cannot be understood; "" if it can.
        relative: whether boxes and outlines are shares of width and height.
    """

    name: str
    size: Size | None
    objects: tuple[Mapping[str, Any], ...] = ()
    mask: str = ""
    problem: str = ""
    relative: bool = False

    def in_pixels(self, size: Size) -> Shown:
        """Return it with boxes and outlines in pixels of an image of this size."""
        if not self.relative:
            return self
        scale = size[1], size[0]

        def scaled(values: Sequence[float]) -> list[float]:
            return [value * scale[at % 2] for at, value in enumerate(values)]

        objects = []
        for each in self.objects:
            box = scaled(each["bbox"])
            outline = [scaled(corners) for corners in each["segmentation"]]
            objects.append({**each, "bbox": box, "area": box[2] * box[3], "segmentation": outline})
        return self._replace(objects=tuple(objects), relative=False)


class Annotations(NamedTuple):
    """The images of both splits, and the names of the classes, the background first."""

    train: list[Shown]
    test: list[Shown]
    classes: list[str]


def row(
    where: str, box: Sequence[float], category: object, label: int | None, crowd: int = 0, **more: Any
) -> dict[str, Any]:
    """Return an object as COCO has it.

    Args:
        where: it stands.
        box: left, top, width and height.
        category: as it stands there.
        label: of the class; None: the category is unknown.
        crowd: 1 where it is neither trained on nor counted.
        more: its area and outline, where they are known.
    """
    common = {"where": where, "bbox": list(box), "category": category, "label": label, "iscrowd": crowd}
    return {**common, "area": box[2] * box[3], "segmentation": [], **more}


def set_aside(files: Sequence[Shown]) -> tuple[list[Shown], list[Shown]]:
    """Return images to train on and a fifth to test with, chosen by the hash of the file's name."""

    def digest(shown: Shown) -> bytes:
        return hashlib.sha256(shown.name.encode("utf-8", "surrogateescape")).digest()

    chosen = {each.name for each in files if digest(each)[0] < 51} or {each.name for each in files[:1]}
    train, test = ([each for each in files if (each.name in chosen) == which] for which in (False, True))
    return train, test


def inside(root: Path, path: Path) -> str | None:
    """Return the name of a file relative to a folder; None if it is not below it."""
    found = Path(os.path.normpath(path.absolute()))
    return str(found.relative_to(root.absolute())) if found.is_relative_to(root.absolute()) else None


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder by name."""
    return [path for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES]


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file, without spaces around.

    Raises:
        DataError: it cannot be read, or has a zero byte, which no text and no name has; names it.
    """
    try:
        text = read_file(path, most=MOST_BYTES).decode(errors="replace")
    except OSError as error:
        raise DataError(path, error.strerror or str(error)) from error
    if "\0" in text:
        raise DataError(path, "is no text: it has a zero byte")
    return [line.strip() for line in text.splitlines()]


def listed_classes(root: Path) -> list[str] | None:
    """Return the names in `classes.txt`, one in each line; None if there is no such file."""
    path = root / "classes.txt"
    return [line for line in lines_of(path) if line] if path.is_file() else None


def with_background(names: Sequence[str]) -> list[str]:
    """Return names of classes with the background first, whether it stands there or not.

    >>> with_background(["cat", "dog"]), with_background(["__background__", "cat"])
    (['background', 'cat', 'dog'], ['background', 'cat'])
    """
    first = names[0].strip("_").lower() if names else ""
    return ["background", *names[first == "background" :]]
