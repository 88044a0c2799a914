"""Data sets of torchvision by name; nothing is downloaded unless asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from regroup.errors import DataError
from regroup.spec import Size
from regroup.training.data.augmentation import Augmentation
from regroup.training.data.dataset import BadImages, DataSet, TensorSplit, statistics
from regroup.training.data.folder import Files, Listed, from_files
from regroup.training.data.sources import data_sets

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
        axes: what the axes of its array after the first are, of "HWC"; EMNIST's images are stored sideways.
        augmentation: how its training images are varied.
        splits: torchvision's arguments for the training and the test split.
    """

    type: str
    place: str
    axes: str
    augmentation: Augmentation
    splits: tuple[dict, dict] = _TRAIN_FLAG


@dataclass(frozen=True)
class _Pictures:
    """A data set that torchvision reads from image files; attributes as of `_Arrays`."""

    type: str
    place: str
    splits: tuple[dict, dict] = _SPLIT


_ARRAYS = {
    "mnist": _Arrays("MNIST", f"MNIST/raw/: {_IDX}", "HW", _SIGNS),
    "fashionmnist": _Arrays("FashionMNIST", f"FashionMNIST/raw/: {_IDX}", "HW", _PHOTOGRAPHS),
    "kmnist": _Arrays("KMNIST", f"KMNIST/raw/: {_IDX}", "HW", _SIGNS),
    "emnist": _Arrays(
        "EMNIST",
        "EMNIST/raw/: emnist-balanced-{train,test}-{images-idx3,labels-idx1}-ubyte of gzip.zip",
        "WH",
        _SIGNS,
        ({"train": True, "split": "balanced"}, {"train": False, "split": "balanced"}),
    ),
    "usps": _Arrays("USPS", "usps.bz2, usps.t.bz2", "HW", _SIGNS),
    "svhn": _Arrays("SVHN", "train_32x32.mat, test_32x32.mat", "CHW", _SIGNS, _SPLIT),
    "cifar10": _Arrays(
        "CIFAR10", "cifar-10-batches-py/ (cifar-10-python.tar.gz, unpacked)", "HWC", _PHOTOGRAPHS
    ),
    "cifar100": _Arrays(
        "CIFAR100", "cifar-100-python/ (cifar-100-python.tar.gz, unpacked)", "HWC", _PHOTOGRAPHS
    ),
    "stl10": _Arrays("STL10", "stl10_binary/ (stl10_binary.tar.gz, unpacked)", "CHW", _PHOTOGRAPHS, _SPLIT),
}

_PICTURES = {
    "food101": _Pictures("Food101", "food-101/images/, food-101/meta/ (food-101.tar.gz, unpacked)"),
    "flowers102": _Pictures(
        "Flowers102", "flowers-102/: jpg/ (102flowers.tgz, unpacked), imagelabels.mat, setid.mat"
    ),
    "pets": _Pictures(
        "OxfordIIITPet",
        "oxford-iiit-pet/: images/ and annotations/ (images.tar.gz, annotations.tar.gz, unpacked)",
        ({"split": "trainval"}, {"split": "test"}),
    ),
    "dtd": _Pictures("DTD", "dtd/dtd/: images/, labels/ (dtd-r1.0.1.tar.gz, unpacked in dtd/)"),
    "aircraft": _Pictures(
        "FGVCAircraft",
        "fgvc-aircraft-2013b/data/ (fgvc-aircraft-2013b.tar.gz, unpacked)",
        ({"split": "trainval"}, {"split": "test"}),
    ),
    "gtsrb": _Pictures("GTSRB", "gtsrb/: GTSRB/Training/, GTSRB/Final_Test/Images/, GT-final_test.csv"),
    "imagenette": _Pictures(
        "Imagenette",
        "imagenette2-160/ (imagenette2-160.tgz, unpacked)",
        ({"split": "train", "size": "160px"}, {"split": "val", "size": "160px"}),
    ),
}


def _from_arrays(
    name: str, image: Size | None = None, *, root: Path = Path("data"), download: bool = False
) -> DataSet:
    """Return a data set that fits into memory; grey ones have one channel."""
    source = _ARRAYS[name]
    parts = [_open(source, root, download, arguments) for arguments in source.splits]
    train, test = (_tensor_split(part, source.axes, image) for part in parts)
    mean, std = statistics(train.images)
    classes = getattr(parts[0], "classes", None) or range(int(train.labels.max()) + 1)
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
    parts = [_open(source, root, download, arguments) for arguments in source.splits]
    files = [
        Listed(os.path.relpath(path, root), label, bool(test))
        for test, part in enumerate(parts)
        for path, label in _paths(part)
    ]
    classes = getattr(parts[0], "classes", None) or range(max(file.label for file in files) + 1)
    names = [label[0] if isinstance(label, tuple) else str(label) for label in classes]  # of synonyms
    return from_files(Files(name, root, names, files, []), image, bad_images, channels)


def _open(source: _Arrays | _Pictures, root: Path, download: bool, arguments: dict) -> Any:
    from torchvision import datasets

    make = getattr(datasets, source.type)
    by_hand = f"put by hand below {root.resolve()}: {source.place}"
    try:
        if download:
            root.mkdir(parents=True, exist_ok=True)
        return make(root, download=download, **arguments)
    except (RuntimeError, OSError, ValueError) as error:
        if download:
            raise DataError(source.type, f"cannot be downloaded ({error}); {by_hand}") from error
        reason = "is missing or damaged; download=True (--download) fetches it"
        raise DataError(source.type, f"{reason}, or {by_hand}") from error


def _tensor_split(part: Any, axes: str, image: Size | None) -> TensorSplit:
    from torchvision.transforms.v2.functional import resize

    images = torch.as_tensor(part.data)
    images = images.permute(0, *(1 + axes.index(axis) for axis in "CHW" if axis in axes))
    if "C" not in axes:
        images = images[:, None]
    if image is not None and image != images.shape[2:]:
        images = resize(images, list(image), antialias=True)
    labels = part.labels if hasattr(part, "labels") else part.targets
    return TensorSplit(images, torch.as_tensor(labels))


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
