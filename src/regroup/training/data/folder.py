"""A folder of images, one sub-folder for each class, as torchvision's ImageFolder has it.

root/train/CLASS/... and root/val/CLASS/... (or test), or root/CLASS/... alone, of which a fifth of each class
is then set aside.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from regroup.errors import ConfigError, DataError
from regroup.spec import Size
from regroup.training.data.augmentation import Augmentation
from regroup.training.data.dataset import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BadImages,
    DataSet,
    RememberingSplit,
    Testing,
    digest_of,
)
from regroup.training.data.images import SUFFIXES, ImageFacts, fit, read_image
from regroup.training.data.scan import BadImagesError, scan

if TYPE_CHECKING:
    from PIL import Image

_MEMORY = 64 << 20  # bytes up to which decoded images are kept for the next epoch
_HELD_OUT = 0.2
_PART = 0.875  # of each side of an image is evaluated
_SHOWN = 10  # of many names in a message
_TEST_NAMES = ("val", "valid", "validation", "test")


class Listed(NamedTuple):
    """A file of the data set.

    Attributes:
        name: path relative to the root.
        label: number of its class.
        test: whether it belongs to the test split.
    """

    name: str
    label: int
    test: bool


class Files(NamedTuple):
    """The files of a data set, and what they mean.

    Attributes:
        name: of the data set.
        root: where their names begin.
        classes: name of each class, by label.
        files: all of them.
        notes: what the user should be told.
        all_test: whether there is nothing to train on, and need not be.
    """

    name: str
    root: Path
    classes: list[str]
    files: list[Listed]
    notes: list[str]
    all_test: bool = False


def folder(
    image: Size | None = None,
    *,
    root: Path,
    bad_images: BadImages = "error",
    testing: Testing | None = None,
    channels: int = 3,
) -> DataSet:
    """Return the data set in the folder `root`; `load_data` calls this for a path.

    Every file is decoded once before anything else; the result is remembered for the next start.

    Args:
        image: (height, width); None is the size of the images if all have the same, else 224 x 224.
        root: the folder.
        bad_images: "error" lists all that cannot be read in one error; "skip" leaves them out and notes it.
        testing: as for `load_data`.
        channels: 3 for colour, 1 for grey.

    Raises:
        DataError: no classes or images, an empty class, a test class that is not trained on, or
            (`BadImagesError`) images that cannot be read.
        ConfigError: `channels` is neither 1 nor 3.
    """
    name = root.resolve().name
    files = _all_test(name, root, testing) if testing else None
    return from_files(files or Files(name, root, *_list_files(root)), image, bad_images, channels)


def from_files(
    files: Files, image: Size | None = None, bad_images: BadImages = "error", channels: int = 3
) -> DataSet:
    """Return the data set of listed files, after a look at each; arguments and errors are as of `folder`."""
    if channels not in (1, 3):
        raise ConfigError("channels", channels, "1 (grey) or 3 (colour)")
    root, notes = files.root, list(files.notes)
    facts = scan(root, [file.name for file in files.files], files.name)
    bad = {file.name: fact.problem for file, fact in zip(files.files, facts, strict=True) if fact.problem}
    if bad and bad_images == "error":
        raise BadImagesError(root, bad)
    if bad:
        notes.append(_summary(f"{len(bad)} of {len(facts)} images cannot be read and are skipped", bad))
    usable = [file for file in files.files if file.name not in bad]
    digests = [fact.digest for fact in facts if not fact.problem]
    if not files.all_test:
        _check_classes(root, files.classes, usable, notes)
    height, width = image or _common_size(facts)

    def split(which: bool) -> FolderSplit:
        some = [file for file in usable if file.test == which]
        known = [digest for file, digest in zip(usable, digests, strict=True) if file.test == which]
        return FolderSplit(root, some, known, (channels, height, width), bad_images)

    test = split(True)
    train = test if files.all_test else split(False)
    return DataSet(
        name=files.name,
        classes=tuple(files.classes),
        shape=train.shape,
        train=train,
        test=test,
        mean=IMAGENET_MEAN if channels == 3 else (0.45,),
        std=IMAGENET_STD if channels == 3 else (0.23,),
        augmentation=Augmentation("timm", flip=0.5),
        notes=tuple(notes),
        part=_PART,
    )


class FolderSplit(RememberingSplit):
    """Images in files.

    Args:
        root: where the names begin.
        files: name and label of each image.
        digests: hash of the content of each.
        shape: (channels, height, width).
        bad_images: what to do about a file that has become unreadable since it was scanned.
    """

    def __init__(
        self,
        root: Path,
        files: list[Listed],
        digests: list[str],
        shape: tuple[int, int, int],
        bad_images: BadImages,
    ) -> None:
        self.labels = torch.tensor([file.label for file in files], dtype=torch.int64)
        self.shape, self._root, self._bad_images = shape, root, bad_images
        self._names = np.array([os.fsencode(file.name) for file in files])  # no list: workers would copy it
        self._digests = np.array(digests, dtype="S32")
        self._remember(_MEMORY)

    def name(self, index: int) -> str:
        return os.fsdecode(self._names[index])

    def picture(self, index: int) -> Image.Image:
        try:
            return read_image(self._root / self.name(index), self.shape[0])
        except DataError as error:
            if self._bad_images == "error":
                raise
            self.replaced[self.name(index)] = error.reason
            return self._stand_in(index, error)

    def read(self, indices: Tensor) -> Tensor:
        _, height, width = self.shape
        return torch.stack([fit(self.picture(i), (height, width), _PART) for i in indices.tolist()])

    def digest(self) -> str:
        """Return a hash of names, labels and contents as they were when the data set was opened."""
        names = [self.name(i) for i in range(len(self))]
        return digest_of(names, self._digests.tolist(), self.labels, list(self.shape))

    def _stand_in(self, index: int, error: DataError) -> Image.Image:
        """Return the next readable image of the same class: always the same one, so that a resume agrees."""
        members = torch.nonzero(self.labels == self.labels[index]).flatten().tolist()
        place = members.index(index)
        for other in members[place + 1 :] + members[:place]:
            try:
                return read_image(self._root / self.name(other), self.shape[0])
            except DataError as further:
                self.replaced[self.name(other)] = further.reason
        raise error


def _all_test(name: str, root: Path, testing: Testing) -> Files | None:
    """Return the images to test with where none are to be trained on; None where there are both."""
    names = _sub_folders(root)
    tests = [each for each in _TEST_NAMES if each in names]
    if tests and set(names) <= set(_TEST_NAMES):
        place = root / tests[0]
    elif testing == "all" and not tests:
        place = root / "train" if "train" in names else root
    else:
        return None
    classes = _sub_folders(place)
    if not classes:
        raise DataError(place, "has no sub-folder; put the images of each class into a folder of its name")
    files, ignored = _walk(root, place, classes)
    notes = [f"{each!r} is left unused; {tests[0]!r} is the test split" for each in tests[1:]]
    listed = [Listed(file, label, True) for file, label in files]
    return Files(name, root, classes, listed, notes + ignored, all_test=True)


def _list_files(root: Path) -> tuple[list[str], list[Listed], list[str]]:
    """Return class names, image files, and notes; the files are ordered by name."""
    train = root / "train"
    tests = [name for name in _TEST_NAMES if (root / name).is_dir()]
    if not train.is_dir():
        classes = _sub_folders(root)
        if not classes:
            raise DataError(root, "has no sub-folder; put the images of each class into a folder of its name")
        files, ignored = _walk(root, root, classes)
        return classes, _hold_out(files), [f"a fifth of {str(root)!r} is set aside as test split", *ignored]
    if not tests:
        raise DataError(root, "has a folder 'train' but none of " + ", ".join(map(repr, _TEST_NAMES)))
    notes = [f"{name!r} is left unused; {tests[0]!r} is the test split" for name in tests[1:]]
    classes = _sub_folders(train)
    unknown = sorted(set(_sub_folders(root / tests[0])) - set(classes))
    if unknown:
        raise DataError(root / tests[0], f"has classes that 'train' lacks: {', '.join(map(repr, unknown))}")
    files, ignored = _walk(root, train, classes)
    test_files, test_ignored = _walk(root, root / tests[0], classes)
    listed = [Listed(name, label, False) for name, label in files]
    listed += [Listed(name, label, True) for name, label in test_files]
    return classes, listed, notes + ignored + test_ignored


def _sub_folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _walk(root: Path, top: Path, classes: list[str]) -> tuple[list[tuple[str, int]], list[str]]:
    """Return (name relative to root, label) of the images below `top`, and notes on what else is there."""
    files, ignored = [], defaultdict(list)
    for label, name in enumerate(classes):
        if not (top / name).is_dir():
            continue
        for path in _files_below(top / name):
            if path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini"):
                continue
            if path.suffix.lower() in SUFFIXES:
                files.append((str(path.relative_to(root)), label))
            else:
                ignored[path.suffix.lower() or "without an ending"].append(str(path.relative_to(top)))
    if not ignored:
        return files, []
    kinds = ", ".join(
        f"{len(names)} {suffix} ({names[0]!r}{', ...' if len(names) > 1 else ''})"
        for suffix, names in sorted(ignored.items())[:_SHOWN]
    )
    more = ", ..." if len(ignored) > _SHOWN else ""
    return files, [f"files in {str(top)!r} that are no images by their names are ignored: {kinds}{more}"]


def _files_below(path: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, in order of name; one that links back only once."""
    seen = set()
    for place, folders, names in os.walk(path, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def _hold_out(files: list[tuple[str, int]]) -> list[Listed]:
    """Set aside a fifth of each class, chosen by the hash of the file's name."""
    members = defaultdict(list)
    for name, label in files:
        members[label].append(name)
    chosen = set()
    for names in members.values():
        names.sort(key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
        chosen.update(names[: max(round(_HELD_OUT * len(names)), min(1, len(names) - 1))])
    return [Listed(name, label, name in chosen) for name, label in files]


def _check_classes(root: Path, classes: list[str], usable: list[Listed], notes: list[str]) -> None:
    trained = {file.label for file in usable if not file.test}
    empty = [name for label, name in enumerate(classes) if label not in trained]
    if empty:
        names = ", ".join(map(repr, empty[:_SHOWN])) + (", ..." if len(empty) > _SHOWN else "")
        reason = f"has no usable training image of {names}; add some, or remove the folder"
        raise DataError(root, "; ".join([reason, *notes]))


def _common_size(facts: list[ImageFacts]) -> Size:
    sizes = {fact.size for fact in facts if not fact.problem}
    return sizes.pop() if len(sizes) == 1 else (224, 224)


def _summary(what: str, reasons: dict[str, str]) -> str:
    shown = "; ".join(f"{name!r} {reason}" for name, reason in list(reasons.items())[:5])
    return f"{what}: {shown}" + ("; ..." if len(reasons) > 5 else "")
