"""Folders of images and of masks, whose levels are the numbers of classes."""

from __future__ import annotations

from pathlib import Path

from regroup.errors import DataError
from regroup.training.data.annotations.shown import (
    TEST,
    TRAIN,
    Annotations,
    Shown,
    images_in,
    listed_classes,
    set_aside,
)
from regroup.training.data.images import read_levels
from regroup.training.data.targets import IGNORED


def read(root: Path, task: str) -> Annotations | None:
    """Return what is in train/images, train/masks, val/..., or in images, masks; None if nothing is."""
    if task != "segment":
        return None
    splits = [[root / name for name in names if (root / name / "masks").is_dir()] for names in (TRAIN, TEST)]
    if all(splits):
        train, test = (_paired(root, places[0]) for places in splits)
    elif (root / "masks").is_dir():
        train, test = set_aside(_paired(root, root))
    else:
        return None
    return Annotations(train, test, listed_classes(root) or _numbered(root, [*train, *test]))


def _numbered(root: Path, files: list[Shown]) -> list[str]:
    """Return names for all classes that masks have: their numbers."""
    most = 1
    for shown in files:
        levels = read_levels(root / shown.mask)
        most = max(most, int(levels[levels != IGNORED].max(initial=0)))
    return ["background", *map(str, range(1, most + 1))]


def _paired(root: Path, top: Path) -> list[Shown]:
    masks = {path.stem: path for path in images_in(top / "masks")}
    images = images_in(top / "images")
    if not images:
        raise DataError(top, "has no images in a folder 'images'")
    found = []
    for path in images:
        name = str(path.relative_to(root))
        if path.stem in masks:
            found.append(Shown(name, None, mask=str(masks[path.stem].relative_to(root))))
        else:
            found.append(Shown(name, None, problem="has no mask of its name"))
    return found
