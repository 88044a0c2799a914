"""Data sets of torchvision by name; nothing is downloaded unless asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from regroup.errors import DataError, first_line
from regroup.files.reading import check_regular
from regroup.spec import Size
from regroup.training.data.augmentation import Augmentation
from regroup.training.data.dataset import BadImages, DataSet, TensorSplit, statistics
from regroup.training.data.folder import Files, Listed, from_files
from regroup.training.data.sources import data_sets

_DIGITS = 10  # classes of sets of digits, where torchvision has no names of them
_SPLIT = {"split": "train"}, {"split": "test"}
_SIGNS, _PHOTOGRAPHS = Augmentation("affine"), Augmentation("crop", flip=0.5)
_TRAIN_FLAG = {"train": True}, {"train": False}
_IDX = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"


@dataclass(frozen=True)
class _Arrays:
    """A data set that torchvision holds in memory.

    Attributes:
        type: torchvision's name of it.
        place: what must lie where below the root.
        opened: pattern of the files that torchvision itself opens, which may be no pipes.
        axes: what the axes of its array after the first are, of "HWC"; EMNIST's images are stored sideways.
        augmentation: how its training images are varied.
        splits: torchvision's arguments for the training and the test split.
    """

    type: str
    place: str
    opened: str
    axes: str
    augmentation: Augmentation
    splits: tuple[dict, dict] = _TRAIN_FLAG


@dataclass(frozen=True)
class _Pictures:
    """A data set that torchvision reads from image files; attributes as of `_Arrays`."""

    type: str
    place: str
    opened: str
    splits: tuple[dict, dict] = _SPLIT


_ARRAYS = {
    "mnist": _Arrays("MNIST", f"MNIST/raw/: {_IDX}", "MNIST/raw/*", "HW", _SIGNS),
    "fashionmnist": _Arrays(
        "FashionMNIST", f"FashionMNIST/raw/: {_IDX}", "FashionMNIST/raw/*", "HW", _PHOTOGRAPHS
    ),
    "kmnist": _Arrays("KMNIST", f"KMNIST/raw/: {_IDX}", "KMNIST/raw/*", "HW", _SIGNS),
    "emnist": _Arrays(
        "EMNIST",
        "EMNIST/raw/: emnist-balanced-{train,test}-{images-idx3,labels-idx1}-ubyte of gzip.zip",
        "EMNIST/raw/*",
        "WH",
        _SIGNS,
        ({"train": True, "split": "balanced"}, {"train": False, "split": "balanced"}),
    ),
    "usps": _Arrays("USPS", "usps.bz2, usps.t.bz2", "usps*.bz2", "HW", _SIGNS),
    "svhn": _Arrays("SVHN", "train_32x32.mat, test_32x32.mat", "*_32x32.mat", "CHW", _SIGNS, _SPLIT),
    "cifar10": _Arrays(
        "CIFAR10",
        "cifar-10-batches-py/ (cifar-10-python.tar.gz, unpacked)",
        "cifar-10-batches-py/*",
        "HWC",
        _PHOTOGRAPHS,
    ),
    "cifar100": _Arrays(
        "CIFAR100",
        "cifar-100-python/ (cifar-100-python.tar.gz, unpacked)",
        "cifar-100-python/*",
        "HWC",
        _PHOTOGRAPHS,
    ),
    "stl10": _Arrays(
        "STL10",
        "stl10_binary/ (stl10_binary.tar.gz, unpacked)",
        "stl10_binary/*",
        "CHW",
        _PHOTOGRAPHS,
        _SPLIT,
    ),
}

_PICTURES = {
    "food101": _Pictures(
        "Food101", "food-101/images/, food-101/meta/ (food-101.tar.gz, unpacked)", "food-101/meta/*"
    ),
    "flowers102": _Pictures(
        "Flowers102",
        "flowers-102/: jpg/ (102flowers.tgz, unpacked), imagelabels.mat, setid.mat",
        "flowers-102/*.mat",
    ),
    "pets": _Pictures(
        "OxfordIIITPet",
        "oxford-iiit-pet/: images/ and annotations/ (images.tar.gz, annotations.tar.gz, unpacked)",
        "oxford-iiit-pet/annotations/*",
        ({"split": "trainval"}, {"split": "test"}),
    ),
    "dtd": _Pictures(
        "DTD", "dtd/dtd/: images/, labels/ (dtd-r1.0.1.tar.gz, unpacked in dtd/)", "dtd/dtd/labels/*"
    ),
    "aircraft": _Pictures(
        "FGVCAircraft",
        "fgvc-aircraft-2013b/data/ (fgvc-aircraft-2013b.tar.gz, unpacked)",
        "fgvc-aircraft-2013b/data/*.txt",
        ({"split": "trainval"}, {"split": "test"}),
    ),
    "gtsrb": _Pictures(
        "GTSRB", "gtsrb/: GTSRB/Training/, GTSRB/Final_Test/Images/, GT-final_test.csv", "gtsrb/*.csv"
    ),
    "imagenette": _Pictures(
        "Imagenette",
        "imagenette2-160/ (imagenette2-160.tgz, unpacked)",
        "imagenette2-160/*.csv",
        ({"split": "train", "size": "160px"}, {"split": "val", "size": "160px"}),
    ),
}


def _from_arrays(
    name: str, image: Size | None = None, *, root: Path = Path("data"), download: bool = False
) -> DataSet:
    """Return a data set that fits into memory; grey ones have one channel."""
    source = _ARRAYS[name]
    with _explained(source, root, download):
        parts = [_open(source, root, download, arguments) for arguments in source.splits]
        train, test = (_tensor_split(part, source.axes, image) for part in parts)
        classes = getattr(parts[0], "classes", None) or range(_DIGITS)
        for split in (train, test):
            _require(split.shape == train.shape, f"its images are {split.shape} and {train.shape}")
            _check_labels(split.labels.tolist(), len(classes))
    mean, std = statistics(train.images)
    return DataSet(
        name=name,
        classes=tuple(map(str, classes)),
        shape=train.shape,
        train=train,
        test=test,
        mean=mean,
        std=std,
        augmentation=source.augmentation,
    )


def _from_pictures(
    name: str,
    image: Size | None = None,
    *,
    root: Path = Path("data"),
    download: bool = False,
    bad_images: BadImages = "error",
    channels: int = 3,
) -> DataSet:
    """Return a data set of image files, checked and read as those of a folder are."""
    source = _PICTURES[name]
    with _explained(source, root, download):
        parts = [_open(source, root, download, arguments) for arguments in source.splits]
        files = [
            Listed(os.path.relpath(path, root), label, bool(test))
            for test, part in enumerate(parts)
            for path, label in _paths(part)
        ]
        labels = [file.label for file in files]
        classes = getattr(parts[0], "classes", None) or range(max(labels) + 1)
        _check_labels(labels, len(classes))
    names = [label[0] if isinstance(label, tuple) else str(label) for label in classes]  # of synonyms
    return from_files(Files(name, root, names, files, []), image, bad_images, channels)


@contextmanager
def _explained(source: _Arrays | _Pictures, root: Path, download: bool) -> Iterator[None]:
    """Say of whatever torchvision, or a look at what it gives, trips over what must lie where."""
    by_hand = f"put by hand below {root.resolve()}: {source.place}"
    try:
        yield
    except Exception as error:  # readers of a dozen formats trip over damage in as many ways
        if download:
            raise DataError(source.type, f"cannot be downloaded ({first_line(error)}); {by_hand}") from error
        kind = "" if isinstance(error, (RuntimeError, OSError)) else f"{type(error).__name__}: "
        reason = f"is missing or damaged ({kind}{first_line(error)}); download=True (--download) fetches it"
        raise DataError(source.type, f"{reason}, or {by_hand}") from error


def _open(source: _Arrays | _Pictures, root: Path, download: bool, arguments: dict) -> Any:
    from torchvision import datasets

    make = getattr(datasets, source.type)
    if download:
        root.mkdir(parents=True, exist_ok=True)
    for path in root.glob(source.opened):
        if not path.is_dir():
            check_regular(path.stat(), path)
    return make(root, download=download, **arguments)


def _check_labels(labels: list[int], classes: int) -> None:
    _require(all(0 <= label < classes for label in labels), f"it has labels beyond its {classes} classes")


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)


def _tensor_split(part: Any, axes: str, image: Size | None) -> TensorSplit:
    from torchvision.transforms.v2.functional import resize

    images = torch.as_tensor(part.data)
    images = images.permute(0, *(1 + axes.index(axis) for axis in "CHW" if axis in axes))
    if "C" not in axes:
        images = images[:, None]
    if image is not None and image != images.shape[2:]:
        images = resize(images, list(image), antialias=True)
    labels = part.labels if hasattr(part, "labels") else part.targets
    labels = torch.as_tensor(labels)
    _require(images.dtype == torch.uint8 and labels.shape == images.shape[:1], "images and labels do not fit")
    return TensorSplit(images, labels)


def _paths(part: Any) -> list[tuple[Path, int]]:
    """Return file and label of each picture; torchvision keeps them under one of three names."""
    if hasattr(part, "_samples"):
        return part._samples
    files = part._image_files if hasattr(part, "_image_files") else part._images
    return list(zip(files, part._labels, strict=True))


def _register(names: dict, make: Callable[..., DataSet]) -> None:
    for name in names:
        data_sets.add(name, partial(make, name))


_register(_ARRAYS, _from_arrays)
_register(_PICTURES, _from_pictures)
