"""Outlines of objects as COCO writes them, as masks; what pycocotools would trip over is refused before.

>>> rectangle = {"segmentation": [[1, 0, 3, 0, 3, 2, 1, 2]], "label": 7, "iscrowd": 0, "area": 4}
>>> levels_of([rectangle], (2, 4)).tolist()
[[0, 7, 7, 0], [0, 7, 7, 0]]

pycocotools leaves what a mask's run lengths do not reach as it finds it in memory, and ends the process over
a corner far away. (https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from regroup.errors import needed
from regroup.spec import Size
from regroup.training.data.targets import IGNORED


def levels_of(objects: Sequence[Mapping[str, Any]], size: Size) -> np.ndarray:
    """Return the class of each pixel, uint8 (height, width); smaller objects lie on larger ones.

    Args:
        objects: with `segmentation` (polygons, or run lengths, packed or not), `label`, `iscrowd`, `area`.
        size: height and width of the image.

    Raises:
        ValueError: an outline is none, or not one in an image of this size.
    """
    masks = needed("pycocotools.mask", "see")
    found = np.zeros(size, np.uint8)
    for each in sorted(objects, key=lambda row: -row["area"]):
        outline = each["segmentation"]
        if isinstance(outline, dict):
            _check_runs(outline, size)
            packed = isinstance(outline["counts"], (str, bytes))
            encoded = outline if packed else masks.frPyObjects(outline, *size)
        else:
            _check_polygons(outline, size)
            encoded = masks.merge(masks.frPyObjects(outline, *size))
        found[masks.decode(encoded).astype(bool)] = IGNORED if each["iscrowd"] else each["label"]
    return found


def _check_polygons(polygons: Any, size: Size) -> None:
    if not isinstance(polygons, list) or not polygons:
        raise ValueError("it is neither polygons nor run lengths")
    for corners in polygons:
        if not isinstance(corners, list) or len(corners) < 6 or len(corners) % 2:
            raise ValueError("a polygon is no list of x and y of three corners or more")
        for at, value in enumerate(corners):
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            most = size[1 - at % 2]
            if not number or not -most <= value <= 2 * most:
                raise ValueError(f"a corner is not in or near the image: {value!r}")


def _check_runs(outline: Mapping[str, Any], size: Size) -> None:
    if outline.get("size") != list(size):
        raise ValueError(f"it is of an image of the size {outline.get('size')!r}")
    counts = outline.get("counts")
    runs = unpacked(counts) if isinstance(counts, (str, bytes)) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("its run lengths are no list of numbers from 0 on")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(f"its run lengths are of {sum(runs)} pixels, the image has {size[0] * size[1]}")


def unpacked(text: str | bytes) -> list[int]:
    """Return the run lengths that a text packs: five bits a character, differences from the third on.

    >>> unpacked("52203")
    [5, 2, 2, 2, 5]

    Raises:
        ValueError: it packs none.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("its run lengths are packed in no way that COCO knows")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its run lengths end in the middle of one")
    return runs
