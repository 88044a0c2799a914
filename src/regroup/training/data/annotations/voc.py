"""Pascal VOC's folders: XML of boxes, PNG of masks, lists of names (http://host.robots.ox.ac.uk/pascal/VOC/).

root/Annotations/2007_1.xml, root/JPEGImages/2007_1.jpg, root/SegmentationClass/2007_1.png, and the splits in
root/ImageSets/Main (boxes) or root/ImageSets/Segmentation: train.txt and val.txt. Without lists a fifth is
set aside. Corners are pixels counted from 1, as in the development kit: xmin=1 is the left edge of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regroup.errors import DataError
from regroup.files.markup import Element, MarkupError, read_xml
from regroup.spec import Size
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
    with_background,
)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
"""Those of the challenges from 2007 on."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(root: Path, task: str) -> Annotations | None:
    """Return what Annotations, or SegmentationClass, say of JPEGImages; None without such folders."""
    place, ending, kind = (
        ("Annotations", ".xml", "Main") if task == "detect" else ("SegmentationClass", ".png", "Segmentation")
    )
    if not (root / place).is_dir():
        return None
    names = listed_classes(root)
    known = {path.stem: path for path in images_in(root / "JPEGImages")}
    splits = _splits(root / "ImageSets" / kind) or _splits(root / "ImageSets" / "Main")
    stems = splits or [[path.stem for path in sorted((root / place).glob(f"*{ending}"))]]
    if not stems[0]:
        raise DataError(root / place, f"has no files *{ending}")
    if task == "segment":
        parts = [[_masked(root, known, stem) for stem in part] for part in stems]
        classes = with_background(names or CLASSES)
    else:
        trees = {stem: _tree(root, stem) for part in stems for stem in part}
        classes = with_background(names or _occurring(trees))
        labels = {name: label for label, name in enumerate(classes) if label}
        parts = [[_boxed(root, known, stem, trees[stem], labels) for stem in part] for part in stems]
    train, test = parts if splits else set_aside(parts[0])
    return Annotations(train, test, classes)


def _splits(folder: Path) -> list[list[str]] | None:
    """Return the names in the lists of both splits; None if there are no such lists."""
    found = []
    for names in (TRAIN, TEST):
        there = [folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()]
        if not there:
            return None
        found.append([line.split()[0] for line in lines_of(there[0]) if line])
    return found


def _image(root: Path, known: Mapping[str, Path], stem: str) -> str:
    """Return the name of an image; of one that is not there the name that it should have."""
    path = known.get(stem, root / "JPEGImages" / f"{stem}.jpg")
    name = inside(root, path)
    if name is None:
        raise DataError(root / "ImageSets", f"names what is outside of the folder: {stem!r}")
    return name


def _masked(root: Path, known: Mapping[str, Path], stem: str) -> Shown:
    return Shown(_image(root, known, stem), None, mask=str(Path("SegmentationClass", f"{stem}.png")))


def _tree(root: Path, stem: str) -> Element | str:
    """Return what stands in an XML file; or the end of a sentence that says why it cannot be read."""
    if inside(root, root / "Annotations" / stem) is None:
        raise DataError(root / "ImageSets", f"names what is outside of the folder: {stem!r}")
    try:
        return read_xml(root / "Annotations" / f"{stem}.xml")
    except OSError as error:
        return f": {error.strerror or error}"
    except MarkupError as error:
        return f", {error}"


def _occurring(trees: Mapping[str, Element | str]) -> Sequence[str]:
    """Return the classes of the challenges if there are no others, else those that occur, by name."""
    found = {
        name.text
        for tree in trees.values()
        if isinstance(tree, Element)
        for each in tree.of("object")
        for name in each.of("name")
    }
    return CLASSES if found <= set(CLASSES) else sorted(found)


def _boxed(
    root: Path, known: Mapping[str, Path], stem: str, tree: Element | str, labels: Mapping[str, int]
) -> Shown:
    name, file = _image(root, known, stem), f"Annotations/{stem}.xml"
    if isinstance(tree, str):
        return Shown(name, None, problem=f"{file}{tree}")
    try:
        size = _size(tree)
        objects = tuple(_object(file, each, labels) for each in tree.of("object"))
    except MarkupError as error:
        return Shown(name, None, problem=f"{file}, {error}")
    return Shown(name, size, objects)


def _size(tree: Element) -> Size | None:
    (size,) = tree.of("size") or (None,)
    if size is None:
        return None
    height, width = (_number(size, name) for name in ("height", "width"))
    return int(height), int(width)


def _object(file: str, each: Element, labels: Mapping[str, int]) -> dict[str, Any]:
    boxes = each.of("bndbox")
    if len(boxes) != 1:
        raise MarkupError(f"line {each.line}: 'object' has {len(boxes)} of 'bndbox', not one")
    left, top, right, bottom = (_number(boxes[0], name) for name in _CORNERS)
    name = each.text_of("name")
    crowd = int(each.text_of("difficult", "0") == "1")
    box = left - 1, top - 1, right - left + 1, bottom - top + 1
    return row(f"{file}, line {boxes[0].line}", box, name, labels.get(name), crowd)


def _number(element: Element, name: str) -> float:
    text = element.text_of(name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 1 << 31:
        raise MarkupError(f"line {element.of(name)[0].line}: {name!r} is no number of pixels: {text[:40]!r}")
    return value
