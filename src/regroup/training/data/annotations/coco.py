"""COCO's JSON: boxes, polygons, run lengths, crowds (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regroup.errors import DataError, first_line
from regroup.files.documents import DocumentError, parse
from regroup.files.reading import read_file
from regroup.training.data.annotations.shown import TEST, TRAIN, Annotations, Shown, inside, row

_MOST_BYTES = 1 << 30
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


def read(root: Path, task: str) -> Annotations | None:
    """Return what annotations/instances_*.json or */_annotations.coco.json say; None without such files."""
    documents = _documents(root)
    if documents is None:
        return None
    read = [_document(path) for path in documents]
    named = {(each["id"], str(each["name"])) for found in read for each in found["categories"]}
    categories = sorted(named, key=lambda pair: (isinstance(pair[0], str), pair))
    labels = {number: label for label, (number, _) in enumerate(categories, 1)}
    if len(labels) < len(categories):
        raise DataError(documents[1], f"has other names of categories than {documents[0].name}")
    train, test = (_shown(root, path, found, labels) for path, found in zip(documents, read, strict=True))
    return Annotations(train, test, ["background", *(name for _, name in categories)])


def _documents(root: Path) -> list[Path] | None:
    """Return the JSON files of the training and the test split; None if there are no such."""
    found = []
    for names in (TRAIN, TEST):
        places = [path for name in names for path in sorted((root / "annotations").glob(f"*{name}*.json"))]
        places += [root / name / "_annotations.coco.json" for name in names]
        there = [path for path in places if path.is_file()]
        if not there:
            return None
        found.append(next((path for path in there if path.name.startswith("instances")), there[0]))
    return found


def _document(path: Path) -> dict[str, Any]:
    tables = (("images", ("id", "file_name")), ("categories", ("id", "name")), ("annotations", ()))
    try:
        found = parse(read_file(path, most=_MOST_BYTES))
        for name, keys in tables:
            rows = found[name]
            if not isinstance(rows, list) or any(key not in each for each in rows for key in keys):
                raise DocumentError(f"{name} is no list of objects with {', '.join(keys) or 'fields'}")
            numbers = [each["id"] for each in rows] if keys else []
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
    objects: dict[Any, list[dict[str, Any]]] = {each["id"]: [] for each in found["images"]}
    problems: dict[Any, str] = {}
    for number, each in enumerate(found["annotations"], 1):
        where = f"{path.name}, annotation {number}"
        try:
            of = objects[each["image_id"]]
        except _WRONG as error:
            raise DataError(path, f"annotation {number} cannot be understood: {error!r}") from error
        try:
            of.append(_object(where, each, labels))
        except _WRONG as error:
            problems.setdefault(each["image_id"], f"{where} cannot be understood: {error!r}")
    split = path.parent if path.parent.name != "annotations" else root / path.stem.rpartition("_")[2]
    places = (split, root / "images" / split.name, root / "images", root)
    files = []
    for number, each in enumerate(found["images"], 1):
        name = _image(root, places, each["file_name"])
        if name is None:
            reason = (
                "is outside of the folder" if isinstance(each["file_name"], str) else "has no text as its"
            )
            raise DataError(path, f"image {number} {reason} file_name: {each['file_name']!r}")
        size = (each["height"], each["width"]) if "height" in each and "width" in each else None
        problem = problems.get(each["id"], "")
        files.append(Shown(name, size, tuple(objects[each["id"]]), problem=problem))
    return files


def _image(root: Path, places: Sequence[Path], named: object) -> str | None:
    if not isinstance(named, str):
        return None
    files = [place / named for place in places]
    return inside(root, next((file for file in files if file.exists()), files[0]))


def _object(where: str, each: Mapping[str, Any], labels: Mapping[Any, int]) -> dict[str, Any]:
    left, top, width, height = (float(value) for value in each["bbox"])
    crowd, area = each.get("iscrowd", 0), float(each.get("area", width * height))
    if crowd not in (0, 1) or not 0 <= area < 1 << 53:
        raise ValueError(f"iscrowd is {crowd!r} and area {area!r}")
    box, category = (left, top, width, height), each["category_id"]
    outline = each.get("segmentation", [])
    return row(where, box, category, labels.get(category), int(crowd), area=area, segmentation=outline)
