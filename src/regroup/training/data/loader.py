"""Batches of a data set, in an order that depends on (seed, epoch) alone and resumes at any sample.

>>> from regroup.training.data import load_data
>>> loader = Loader(load_data("digits"), batch_size=64, seed=1)
>>> batches = [batch.indices for batch in loader.batches(epoch=2)]
>>> resumed = [batch.indices for batch in loader.batches(epoch=2, start=3 * loader.step)]
>>> all(torch.equal(a, b) for a, b in zip(batches[3:], resumed, strict=True))
True
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regroup.errors import ConfigError
from regroup.training.data.augmentation import NO_AUGMENTATION, Augmentation
from regroup.training.data.dataset import DataSet, Split
from regroup.training.data.randomness import Dice, permutation
from regroup.training.data.reader import Read, Reader, read_in_workers

_ORDER, _WARP, _PICTURE, _BATCH = range(4)  # what a number is drawn for: no two draw the same


class Batch(NamedTuple):
    """What one step of training or measuring works on.

    Attributes:
        images: normalised float32, (batch, channels, height, width), on the loader's device.
        labels: what they show, by the task of the data: class numbers, int64, (batch,), or float32
            probabilities, (batch, classes), if mixed; masks, int64, (batch, height, width); a list of boxes.
        indices: which images of the split they are, int64, (batch,), on the CPU; `split.name` tells more.
    """

    images: Tensor
    labels: Any
    indices: Tensor


@dataclass(frozen=True)
class Loader:
    """The batches of one split, for one of `world` processes.

    Args:
        data: the data set.
        batch_size: images per batch and process.
        train: the training split, in random order, augmented, without the incomplete batch at the end (which
            holds other images in each epoch); otherwise the test split, in its own order, every image once.
        seed: what the order and the augmentation depend on, with the epoch.
        augmentation: of the training split; None is the data set's own.
        rank: which process this is. The processes of one step share one stretch of the order: `world`
            processes with `batch_size` see together what one process with `world * batch_size` sees.
        world: number of processes.
        workers: processes that read and augment images; 0 does it here. They change no result. Splits in
            memory need none and start none.
        device: where images and labels go.

    Raises:
        ConfigError: batch_size, workers, rank or world out of range, or more processes than images.
    """

    data: DataSet
    batch_size: int
    train: bool = True
    seed: int = 0
    augmentation: Augmentation | None = None
    rank: int = 0
    world: int = 1
    workers: int = 0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("world", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ConfigError(name, getattr(self, name), f"{least} or more")
        if not 0 <= self.rank < self.world:
            raise ConfigError("rank", self.rank, f"below world={self.world}, and 0 or more")
        if self._augmentation.kind == "timm" and self.data.shape[0] not in (1, 3):
            raise ConfigError("kind", "timm", "used with 1 or 3 channels", f"these are {self.data.shape[0]}")
        if self.train and len(self.split) < self.world:
            raise ConfigError("world", self.world, f"at most the {len(self.split)} training images")

    @property
    def split(self) -> Split:
        """The split that the batches are of."""
        return self.data.train if self.train else self.data.test

    @property
    def step(self) -> int:
        """Images that all processes together use in one step; fewer if there are not so many."""
        whole = self.batch_size * self.world
        if self.train and len(self.split) < whole:
            return len(self.split) // self.world * self.world
        return whole

    def __len__(self) -> int:
        """Return the number of steps in a whole epoch."""
        return len(self.split) // self.step if self.train else -(-len(self.split) // self.step)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def order(self, epoch: int) -> Tensor:
        """Return the order of the images in an epoch, all processes together: int64, (count,)."""
        if not self.train:
            return torch.arange(len(self.split))
        return torch.from_numpy(permutation(len(self.split), self.seed, _ORDER, epoch))

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield this process's batches of an epoch.

        Args:
            epoch: number of the epoch; with the seed it determines order and augmentation.
            start: images of this epoch that all processes together have used before; after k steps
                it has grown by k * `step`.

        Raises:
            DataError: an image cannot be read; names the file.
        """
        augmentation = self._augmentation
        shares = list(self._shares(epoch, start))
        scale, shift = self._normalisation()
        for indices, (images, labels) in zip(shares, self._read(shares, epoch), strict=True):
            images = torch.addcmul(shift, images.to(self.device, non_blocking=True).float(), scale)
            labels = moved(labels, self.device)
            dice = Dice(self.seed, _WARP, epoch, indices.numpy())
            key = self.seed, _BATCH, epoch, int(indices[0])
            images = augmentation.blank(augmentation.of_batch(images, dice), *key)
            yield Batch(*augmentation.mix(images, labels, len(self.data.classes), *key), indices)

    @property
    def _augmentation(self) -> Augmentation:
        if not self.train:
            return NO_AUGMENTATION
        return self.data.augmentation if self.augmentation is None else self.augmentation

    def _shares(self, epoch: int, start: int) -> Iterator[Tensor]:
        """Yield the indices of each of this process's batches."""
        share = self.step // self.world
        for stretch in self.order(epoch)[start:].split(self.step):
            if self.train and len(stretch) < self.step:
                return
            mine = stretch[self.rank * share : (self.rank + 1) * share]
            if len(mine):
                yield mine

    def _normalisation(self) -> tuple[Tensor, Tensor]:
        """Return what pixels of 0..255 are multiplied with, and what is then added."""
        mean, std = torch.tensor([self.data.mean, self.data.std], dtype=torch.float64)[:, :, None, None]
        return (1 / (255 * std)).float().to(self.device), (-mean / std).float().to(self.device)

    def _read(self, shares: list[Tensor], epoch: int) -> Iterator[Read]:
        """Yield the images and targets of each share, from worker processes if that is worth while."""
        reader = Reader(self.split, self._augmentation, (self.seed, _PICTURE, epoch))
        if self.workers == 0 or (self.split.in_memory and self._augmentation.kind not in ("timm", "targets")):
            yield from map(reader.read, shares)
        else:
            yield from read_in_workers(reader, shares, self.workers, torch.device(self.device).type == "cuda")


def moved(targets: Any, device: torch.device | str) -> Any:
    """Return a tensor, or a list of dictionaries of tensors, on a device."""
    if isinstance(targets, Tensor):
        return targets.to(device)
    return [{name: value.to(device) for name, value in target.items()} for target in targets]
