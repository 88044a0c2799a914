"""Reading the images of batches, here or in worker processes, with errors that name the file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from regroup.errors import DataError
from regroup.training.data.augmentation import Augmentation
from regroup.training.data.dataset import Split
from regroup.training.data.randomness import seeded
from regroup.training.data.targets import TargetSplit, Vary

_log = logging.getLogger(__name__)

Read = tuple[Tensor, Any]
"""Images, uint8 (batch, channels, height, width), and what they show: class numbers, masks, boxes."""

_PATIENCE = 600  # seconds after which a worker that returns nothing counts as hung


class Reader(Dataset):
    """Images by the batch; picture by picture through timm's augmentation if that is asked for.

    Args:
        split: where they come from.
        augmentation: only its kind "timm" matters here; the others vary whole batches later.
        key: what the augmentation depends on, with the index of the image.
    """

    def __init__(self, split: Split, augmentation: Augmentation, key: tuple[int, ...]) -> None:
        self.split, self._key = split, key
        self._vary: Vary | None = augmentation.of_targets()
        self._transform = augmentation.of_pictures(*split.shape[1:]) if augmentation.kind == "timm" else None

    def images(self, indices: Tensor) -> Tensor:
        """Return uint8 images, (batch, channels, height, width).

        Raises:
            DataError: an image cannot be read; names the file.
        """
        if self._transform is None:
            return self.split.fetch(indices)
        return torch.stack([self._augmented(index) for index in indices.tolist()])

    def read(self, indices: Tensor) -> Read:
        """Return images as `images` does, and what they show.

        Raises:
            DataError: an image cannot be read; names the file.
        """
        if isinstance(self.split, TargetSplit):
            return self.split.samples(indices, self._vary, self._key)
        return self.images(indices), self.split.targets(indices)

    def __getitem__(self, index: Tensor) -> tuple[Read, dict[str, str]] | DataError:
        """Return what was read and replaced, or the error, which loses its type when raised here."""
        try:
            return self.read(index), self.split.replaced
        except DataError as error:
            return error

    def _augmented(self, index: int) -> Tensor:
        assert self._transform is not None
        picture = self.split.picture(index)
        with seeded(*self._key, index):
            image = self._transform(picture.convert("RGB"))  # timm's policies fill with three channels
        if self.split.shape[0] == 1:
            return (image.int().sum(0, keepdim=True) // 3).to(torch.uint8)
        return image


def read_in_workers(reader: Reader, shares: list[Tensor], workers: int, pin: bool) -> Iterator[Read]:
    """Yield the images of each share in turn, read ahead by worker processes.

    Args:
        reader: what reads.
        shares: indices of each batch.
        workers: number of processes, at least 1.
        pin: give memory that a GPU copies from faster.

    Raises:
        DataError: an image cannot be read, or a worker died or hung over one; names the files.
    """
    loader = DataLoader(
        reader,
        sampler=shares,
        batch_size=None,  # a share is a batch already
        num_workers=min(workers, max(1, len(shares))),
        pin_memory=pin,
        timeout=_PATIENCE,
        generator=torch.Generator(),  # the global one must not notice the workers
    )
    results = iter(loader)
    for share in shares:
        outcome = _outcome(results, reader.split, share)
        if isinstance(outcome, DataError):
            del results  # ends the workers now; the error keeps this frame, and would keep them
            raise outcome
        yield outcome


def _outcome(results: Iterator, split: Split, share: Tensor) -> Read | DataError:
    """Return the next images and targets, or the error that a worker met; warn of what was replaced."""
    try:
        result = next(results)
    except RuntimeError as error:
        names = ", ".join(split.name(index) for index in share.tolist())
        return DataError(names, f"a worker process died or hung over one of these ({error})")
    if isinstance(result, DataError):
        return result
    read, replaced = result
    for name in replaced.keys() - split.replaced.keys():
        _log.warning("%r cannot be read any more (%s); another image stands in", name, replaced[name])
    split.replaced.update(replaced)
    return read
