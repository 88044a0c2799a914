"""A data set as a network is shown it: images of its size, normalised for it, under its class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from regroup.errors import ConfigError
from regroup.loading.inputs import ImageInput
from regroup.training.data import DataSet, Split, load_data
from regroup.training.data.dataset import BadImages, Testing, digest_of
from regroup.training.data.targets import IGNORED, Target, TargetSplit

_SHOWN = 3  # of many classes in a message


def shown(
    source: str,
    wanted: ImageInput,
    count: int,
    namings: Sequence[Sequence[str]] = (),
    *,
    task: str = "classify",
    by_order: bool = False,
    bad_images: BadImages = "error",
    download: bool = False,
    testing: Testing | None = None,
) -> DataSet:
    """Return a data set as a network is to be shown it; its classes are the network's.

    Images that have the network's shape and part already are what the data set gives, bit for bit.

    Args:
        source: name of the data set, or folder.
        wanted: which images the network takes.
        count: classes of the network.
        namings: their names, in the order of its scores; several, such as those of ImageNet's folders too.
        task: of the network.
        by_order: take the data's classes for the network's, one by one, where their names are others.
        bad_images: as for `load_data`.
        download: likewise.
        testing: likewise; "all": the test split is of all images.

    Raises:
        ConfigError: the data set has a class that the network does not know.
        UnknownNameError, DataError: as `load_data`.
    """
    data = load_data(
        source, wanted.size, task=task, bad_images=bad_images, download=download, testing=testing
    )
    numbers, notes = _numbers(data, count, namings, by_order)
    own = namings[0] if namings else data.classes
    same = replace(wanted, mean=data.mean, std=data.std) == ImageInput.on(data)
    train, test = (_shown(split, numbers, None if same else wanted) for split in (data.train, data.test))
    if testing == "all" and data.train is not data.test:
        test = _both(train, test)
    return replace(
        data,
        classes=tuple(own),
        shape=wanted.shape,
        train=train,
        test=test,
        mean=wanted.mean,
        std=wanted.std,
        part=wanted.part,
        crop=wanted.crop,
        resample=wanted.resample,
        notes=(*data.notes, *notes),
    )


def _shown(split: Split, numbers: Sequence[int], wanted: ImageInput | None) -> Split:
    return Renumbered(split, numbers) if isinstance(split, TargetSplit) else Shown(split, numbers, wanted)


class Renumbered(TargetSplit):
    """Images with masks or boxes, whose labels are the network's numbers of the classes.

    Args:
        split: the images.
        numbers: of each class of the split, the network's number.
    """

    def __init__(self, split: TargetSplit, numbers: Sequence[int]) -> None:
        self.split, self.shape, self.task = split, split.shape, split.task
        self._numbers = torch.arange(IGNORED + 1)
        self._numbers[: len(numbers)] = torch.tensor(numbers)
        self._remember(len(split), memory=0)

    def sample(self, index: int) -> tuple[Tensor, Target]:
        """Return what the split does, under the other numbers."""
        image, target = self.split.sample(index)
        own = "semantic" if self.task == "segment" else "labels"
        return image, {**target, own: self._numbers[target[own].long()]}

    def name(self, index: int) -> str:
        return self.split.name(index)


class Shown(Split):
    """A split under other numbers of the classes, and with its images as a network takes them.

    Args:
        split: the images.
        numbers: of each class of the split, the network's number.
        wanted: how to make them of the split's pictures; None: they are the split's own.
    """

    def __init__(self, split: Split, numbers: Sequence[int], wanted: ImageInput | None) -> None:
        self.split, self._wanted = split, wanted
        self.labels = torch.tensor(numbers)[split.labels]
        self.shape = split.shape if wanted is None else wanted.shape
        self.in_memory = split.in_memory and wanted is None

    @property
    def replaced(self) -> dict[str, str]:
        return self.split.replaced

    def fetch(self, indices: Tensor) -> Tensor:
        if self._wanted is None:
            return self.split.fetch(indices)
        mode = "L" if self.shape[0] == 1 else "RGB"
        pictures = (self.split.picture(index).convert(mode) for index in indices.tolist())
        return torch.stack([self._wanted.pixels(picture) for picture in pictures])

    def name(self, index: int) -> str:
        return self.split.name(index)

    def digest(self) -> str:
        return digest_of(self.labels, self.split.digest(), self._wanted)


def _both(first: Split, second: Split) -> Split:
    if isinstance(first, TargetSplit) and isinstance(second, TargetSplit):
        return _BothSeen(first, second)
    return _Both(first, second)


class _BothSeen(TargetSplit):
    """Two splits with masks or boxes, one after the other."""

    def __init__(self, first: TargetSplit, second: TargetSplit) -> None:
        self._splits, self.shape, self.task = (first, second), first.shape, first.task
        self._remember(len(first) + len(second), memory=0)

    def sample(self, index: int) -> tuple[Tensor, Target]:
        first, second = self._splits
        return first.sample(index) if index < len(first) else second.sample(index - len(first))

    def name(self, index: int) -> str:
        first, second = self._splits
        return first.name(index) if index < len(first) else second.name(index - len(first))


class _Both(Split):
    """Two splits, one after the other."""

    def __init__(self, first: Split, second: Split) -> None:
        self._splits = first, second
        self.labels = torch.cat([first.labels, second.labels])
        self.shape, self.in_memory = first.shape, first.in_memory and second.in_memory

    @property
    def replaced(self) -> dict[str, str]:
        return {**self._splits[0].replaced, **self._splits[1].replaced}

    def fetch(self, indices: Tensor) -> Tensor:
        first, second = self._splits
        images = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        late = indices >= len(first)
        if not late.all():
            images[~late] = first.fetch(indices[~late])
        if late.any():
            images[late] = second.fetch(indices[late] - len(first))
        return images

    def name(self, index: int) -> str:
        first, second = self._splits
        return first.name(index) if index < len(first) else second.name(index - len(first))

    def digest(self) -> str:
        return digest_of(*(split.digest() for split in self._splits))


def _numbers(
    data: DataSet, count: int, namings: Sequence[Sequence[str]], by_order: bool
) -> tuple[list[int], list[str]]:
    """Return the network's number of each class of the data, and what the user should know of it."""
    for known in namings:
        number = {name: i for i, name in enumerate(known)}
        if all(name in number for name in data.classes):
            few = (
                [f"{len(data.classes)} of the network's {count} classes"] if len(data.classes) < count else []
            )
            return [number[name] for name in data.classes], few
    if len(data.classes) == count and (by_order or not namings):
        return list(range(count)), [
            "classes are taken in the order of the data: the network does not name them"
        ]
    own = set().union(*namings)
    unknown = [name for name in data.classes if name not in own]
    some = ", ".join(map(repr, unknown[:_SHOWN]))
    some += f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    allowed = f"of classes that the network knows ({count})" if own else f"of {count} classes, as the network"
    has = f"it has {some}" if own else f"it has {len(data.classes)}"
    raise ConfigError("data", data.name, allowed, has)
