"""Images that show objects or regions: splits whose targets are masks or boxes instead of a class.

>>> split = regroup.load_data("scenes", image=32, task="segment", count=4).train
>>> images, masks = split.samples(torch.tensor([0, 3]))
>>> images.shape, masks.shape
(torch.Size([2, 3, 32, 32]), torch.Size([2, 32, 32]))
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regroup.training.data.dataset import Split, digest_of
from regroup.training.data.randomness import seeded

Target = dict[str, Tensor]
"""What an image shows, in the format of torchvision's detection models.

boxes (objects, 4) float32 x1, y1, x2, y2 in pixels; labels (objects,) int64, from 1; area (objects,) float32
and iscrowd (objects,) int64 as in COCO; size, the height and width in pixels that the picture has, by which
areas are; masks (objects, height, width) uint8; and semantic (height, width)
int64, the label of each pixel, 0 for the background, `IGNORED` for what counts for nothing. Not every source
knows all of them.
"""

Vary = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""Returns an image and its target in another form; draws from PyTorch's global generator."""

IGNORED = 255
"""Label of pixels that are neither trained on nor measured, as in Pascal VOC and Cityscapes."""

_MEMORY = 512 << 20  # bytes up to which what was read or drawn is kept for the next epoch


class TargetSplit(Split):
    """Images with targets by index; a subclass gives `sample`, and `_remember`s how many there are.

    Attributes:
        task: "segment", where a target is the mask `semantic`; or "detect", where it has boxes.
    """

    task: str

    def _remember(self, count: int, memory: int = _MEMORY) -> None:
        self._count = count
        self.in_memory = count * (math.prod(self.shape) + math.prod(self.shape[1:])) <= memory
        self._kept: dict[int, tuple[Tensor, Any]] = {}

    @abstractmethod
    def sample(self, index: int) -> tuple[Tensor, Target]:
        """Return an image as it is evaluated, uint8 (channels, height, width), and all that it shows.

        Raises:
            DataError: it cannot be read; names the file.
        """

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Return an image and its target as the task wants it: a mask, int64 (height, width); or boxes."""
        index = range(self._count)[index]
        if index in self._kept:
            image, target = self._kept[index]
        else:
            image, found = self.sample(index)
            target = found["semantic"].to(torch.uint8) if self.task == "segment" else _of_objects(found)
            if self.in_memory:
                self._kept[index] = image, target
        return image, target.long() if isinstance(target, Tensor) else target

    def samples(
        self, indices: Tensor, vary: Vary | None = None, key: tuple[int, ...] = ()
    ) -> tuple[Tensor, Any]:
        """Return images, uint8 (batch, channels, height, width), and masks (batch, height, width) or a list.

        Args:
            indices: which.
            vary: what is done to each.
            key: what that depends on, with the index.
        """
        images, targets = [], []
        for index in indices.tolist():
            image, target = self[index]
            if vary is not None:
                with seeded(*key, index):
                    image, target = vary(image, target)
            images.append(image)
            targets.append(target)
        return torch.stack(images), torch.stack(targets) if self.task == "segment" else targets

    def fetch(self, indices: Tensor) -> Tensor:
        return self.samples(indices)[0]

    def targets(self, indices: Tensor) -> Any:
        return self.samples(indices)[1]

    def digest(self) -> str:
        """Return a hash of 64 images and targets from all over the split; see `Split.digest`."""
        some = torch.linspace(0, self._count - 1, min(64, self._count)).long()
        images, targets = self.samples(some)
        if self.task == "segment":
            parts = [targets]
        else:
            parts = [value for target in targets for _, value in sorted(target.items())]
        return digest_of(images, *parts, type(self).__qualname__, list(self.shape), self._count)


def _of_objects(target: Target) -> Target:
    """Return what training and measuring of boxes need, and no masks."""
    return {name: target[name] for name in ("boxes", "labels", "area", "iscrowd", "size")}
