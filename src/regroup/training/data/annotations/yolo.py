"""YOLO's text files: a line for each object, its class and its box or outline in shares of the image.

data.yaml names the classes and where the images of each split are; without it `classes.txt` names them, and
images are in images/train, images/val, in train/images, val/images, or in images. Labels are in a folder
`labels` in the place of `images` (https://docs.ultralytics.com/datasets/detect/,
https://docs.ultralytics.com/datasets/segment/); an image without a file of labels shows no object.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regroup.errors import DataError
from regroup.files.plain_yaml import YamlError, read_yaml
from regroup.training.data.annotations.shown import (
    TEST,
    TRAIN,
    Annotations,
    Shown,
    images_in,
    inside,
    lines_of,
    listed_classes,
    row,
    set_aside,
)


def read(root: Path, task: str) -> Annotations | None:
    """Return what the files in `labels` say; None if there is neither such a folder nor data.yaml."""
    labelled = bool(list(root.glob("labels")) or list(root.glob("*/labels")))
    documents = [path for name in ("*.yaml", "*.yml") for path in sorted(root.glob(name))]
    described = [path for path in documents if labelled or path.stem == "data"]
    if not labelled and not described:
        return None
    names, splits = _described(root, described) if described else (listed_classes(root), _placed(root))
    if not names:
        raise DataError(root, "has labels, but neither data.yaml nor classes.txt, which name the classes")
    parts = [[_shown(root, path, len(names), task) for path in part] for part in splits]
    train, test = parts if len(parts) == 2 else set_aside(parts[0])
    return Annotations(train, test, ["background", *names])


def _described(root: Path, documents: Sequence[Path]) -> tuple[list[str], list[list[Path]]]:
    """Return the names of the classes, and the images of both splits, as data.yaml has them."""
    path = next((each for each in documents if each.stem == "data"), documents[0])
    try:
        found = read_yaml(path)
    except OSError as error:
        raise DataError(path, error.strerror or str(error)) from error
    except YamlError as error:
        raise DataError(path, f"is no description of a data set: {error}") from error
    if not isinstance(found, dict) or "names" not in found:
        raise DataError(path, "is no description of a data set: it has no 'names', which are the classes'")
    names = _names(path, found["names"])
    if "nc" in found and found["nc"] != str(len(names)):
        raise DataError(path, f"says nc: {found['nc']}, and has {len(names)} names")
    base = found["path"] if isinstance(found.get("path"), str) else "."
    splits = []
    for known in (TRAIN, TEST):
        places = next((found[name] for name in known if found.get(name)), None)
        places = [places] if isinstance(places, str) else places
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise DataError(path, f"says no folder of images for {' or '.join(known)}")
        splits.append([image for place in places for image in _images(root, base, place, path)])
    return names, splits


def _names(path: Path, found: Any) -> list[str]:
    """Return the names of a list, or of a mapping from 0, 1, 2, ..."""
    if isinstance(found, dict):
        wanted = [str(number) for number in range(len(found))]
        if set(found) != set(wanted):
            raise DataError(path, f"has names of other numbers than 0 to {len(found) - 1}")
        found = [found[number] for number in wanted]
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise DataError(path, "has names that are neither a list nor numbered from 0 on")
    return found


def _images(root: Path, base: str, place: str, said: Path) -> list[Path]:
    """Return the images that a split names: a folder, or a file that lists them.

    What `path` says often is of another machine, and exports begin with "../": both are left out where that
    finds something in the folder.
    """
    bare = re.sub(r"^(\.\./)+", "", place)
    for path in (root / base / place, root / place, root / base / bare, root / bare):
        if inside(root, path) is None or not path.exists():
            continue
        if path.is_dir():
            return images_in(path)
        listed = [(path.parent / line, root / line) for line in lines_of(path) if line]
        files = [beside if beside.exists() else below for beside, below in listed]
        if wrong := [file for file in files if inside(root, file) is None]:
            raise DataError(path, f"names what is outside of the folder: {str(wrong[0])!r}")
        return files
    raise DataError(said, f"names a folder of images that is not in {root}: {place!r}")


def _placed(root: Path) -> list[list[Path]]:
    """Return the images of both splits, or of all of the folder, by where they are."""
    for pattern in ("images/{}", "{}/images"):
        folders = [[root / pattern.format(name) for name in names] for names in (TRAIN, TEST)]
        there = [next((folder for folder in each if folder.is_dir()), None) for each in folders]
        if None not in there:
            return [images_in(folder) for folder in there if folder is not None]
    return [images_in(root / "images")]


def _shown(root: Path, image: Path, classes: int, task: str) -> Shown:
    name = inside(root, image) or ""
    folders = list(Path(name).parent.parts)
    if "images" in folders:
        folders[-1 - folders[::-1].index("images")] = "labels"
    file = str(Path(*folders, f"{image.stem}.txt"))
    if not (root / file).exists():
        return Shown(name, None)
    try:
        lines = enumerate(lines_of(root / file), 1)
        objects = [_object(f"{file}, line {at}", line, classes, task) for at, line in lines if line]
    except DataError as error:
        return Shown(name, None, problem=f"{file}: {error.reason}")
    except ValueError as error:
        return Shown(name, None, problem=str(error))
    return Shown(name, None, tuple(objects), relative=True)


def _object(where: str, line: str, classes: int, task: str) -> dict[str, Any]:
    """Return the object of a line: the class, and x, y, width, height; or x and y of three corners on."""
    first, *words = line.split()
    try:
        category, values = int(first), [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{where} is not the number of a class and numbers: {line[:60]!r}") from None
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{where} has a number that is not finite: {line[:60]!r}")
    count = len(values)
    if count != 4 and (count < 6 or count % 2):
        raise ValueError(f"{where} has {count} numbers after the class: a box has 4, an outline 6, 8, ...")
    label = category + 1 if 0 <= category < classes else None
    if count == 4:
        if task == "segment":
            raise ValueError(f"{where} has a box, and no outline to segment by")
        x, y, width, height = values
        return row(where, (x - width / 2, y - height / 2, width, height), category, label)
    left, top, right, bottom = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    return row(where, (left, top, right - left, bottom - top), category, label, segmentation=[values])
