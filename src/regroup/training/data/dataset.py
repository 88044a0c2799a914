"""What a data set is: two splits of labelled images, and what a network must know to read them."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from regroup.errors import DataError
from regroup.spec import Size
from regroup.training.data.augmentation import NO_AUGMENTATION, Augmentation
from regroup.training.data.images import Crop, Resample
from regroup.training.data.randomness import permutation

if TYPE_CHECKING:
    from PIL import Image

BadImages = Literal["error", "skip"]
"""What to do about images that cannot be read."""

Testing = Literal["test", "all"]
"""Images that a network is tested with which is trained already: a test split, or all that there are."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Split(Dataset):
    """Labelled images by index; a subclass gives `fetch`, or `picture` and `fetch`.

    Attributes:
        labels: class of each image, int64, shape (count,). Known without reading an image.
        shape: (channels, height, width) of the images that `fetch` returns.
        in_memory: fetching is a copy, so worker processes would only slow it down.
        replaced: images that became unreadable after the data set was opened, by name, with the reason; with
            `bad_images="skip"` another of their class stands in for each.
    """

    labels: Tensor
    shape: tuple[int, int, int]
    in_memory: bool = False

    @property
    def replaced(self) -> dict[str, str]:
        """Images that became unreadable after the data set was opened, by name, with the reason."""
        return self.__dict__.setdefault("_replaced", {})

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image (uint8, channels x height x width, as it is evaluated) and its class."""
        return self.fetch(torch.tensor([range(len(self))[index]]))[0], int(self.labels[index])

    @abstractmethod
    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images of `indices` as they are evaluated: uint8, (batch, channels, height, width).

        Raises:
            DataError: an image cannot be read; names the file.
        """

    def targets(self, indices: Tensor) -> Tensor:
        """Return what the images of `indices` show: their classes."""
        return self.labels[indices]

    def digest(self) -> str:
        """Return a hash of the images and labels, by which runs on other images are told apart.

        Here it is of the labels, the shape, and 64 images from all over the split. Splits that know more
        cheaply, or have to look more closely, override it.
        """
        some = torch.linspace(0, len(self) - 1, min(64, len(self))).long()
        return digest_of(self.labels, self.fetch(some), type(self).__qualname__, list(self.shape))

    def picture(self, index: int) -> Image.Image:
        """Return one image in the size that the source has, mode L or RGB: what is augmented."""
        from torchvision.transforms.v2.functional import to_pil_image

        return to_pil_image(self[index][0])

    def name(self, index: int) -> str:
        """Return what a user knows the image as: its file, or its number."""
        return f"image {index}"


class RememberingSplit(Split):
    """A split that reads or draws each image once, as long as all of them fit into `memory` bytes.

    A subclass sets `labels` and `shape`, calls `_remember`, and gives `read`.
    """

    def _remember(self, memory: int) -> None:
        self.in_memory = len(self.labels) * math.prod(self.shape) <= memory
        if self.in_memory:
            self._images = torch.empty(len(self.labels), *self.shape, dtype=torch.uint8)
            self._known = torch.zeros(len(self.labels), dtype=torch.bool)

    @abstractmethod
    def read(self, indices: Tensor) -> Tensor:
        """Return what `fetch` does, afresh."""

    def fetch(self, indices: Tensor) -> Tensor:
        if not self.in_memory:
            return self.read(indices)
        missing = indices[~self._known[indices]]
        if len(missing):
            self._images[missing] = self.read(missing)
            self._known[missing] = True
        return self._images[indices]


class TensorSplit(Split):
    """A split held in memory.

    Args:
        images: uint8, (count, channels, height, width).
        labels: class of each image, (count,).
    """

    in_memory = True

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        assert images.dtype == torch.uint8 and len(images) == len(labels), (images.dtype, len(labels))
        self.images, self.labels = images.contiguous(), labels.long()
        self.shape = (images.shape[1], images.shape[2], images.shape[3])

    def fetch(self, indices: Tensor) -> Tensor:
        return self.images[indices]

    def digest(self) -> str:
        return digest_of(self.labels, self.images)


@dataclass(frozen=True)
class DataSet:
    """Images to train on and images to measure with, their classes and their statistics.

    Args:
        name: how the user called it.
        classes: name of each class, in the order of the labels.
        shape: (channels, height, width) of every image.
        train: the split to learn from.
        test: the split to measure accuracy with; never trained on.
        mean: of each channel, with pixels in 0..1; what `Loader` subtracts.
        std: of each channel; what `Loader` divides by.
        augmentation: how the training split is varied unless the user says otherwise.
        notes: what the user should be told: images skipped, files ignored, splits made up.
        part: of an image in a file, how much of each side the test split shows: see `images.fit`.
        crop: what it shows of an image of other proportions.
        resample: how it makes images of other sizes.
        task: what networks are to say of the images, a name of `regroup.training.tasks`.

    Raises:
        DataError: a split is empty, or there are fewer than two classes.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = NO_AUGMENTATION
    notes: tuple[str, ...] = ()
    part: float = 1.0
    crop: Crop = "center"
    resample: Resample = "bicubic"
    task: str = "classify"

    def __post_init__(self) -> None:
        for which in ("train", "test"):
            if len(getattr(self, which)) == 0:
                raise DataError(self.name, f"the {which} split has no images")
        if len(self.classes) < 2:
            raise DataError(
                self.name, f"has one class only ({', '.join(self.classes)}): there is nothing to tell apart"
            )

    @property
    def image(self) -> Size:
        """Height and width of every image."""
        return self.shape[1:]


def digest_of(*parts: object) -> str:
    """Return a hash of tensors, and of what else has a text that says all of it."""
    seen = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            seen.update(f"{part.dtype} {tuple(part.shape)}\n".encode())
            seen.update(part.cpu().contiguous().numpy().data)
        else:
            seen.update(f"{part!r}\n".encode("utf-8", "surrogateescape"))
    return seen.hexdigest()[:32]


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 images, with pixels in 0..1."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = [images[:, channel].flatten().bincount(minlength=256) for channel in range(images.shape[1])]
    shares = torch.stack(counts).double() / counts[0].sum()
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp(min=1 / 255).tolist())


def held_out(labels: Tensor, part: float) -> Tensor:
    """Return a bool for each image: whether it is among the `part` of its class that is not trained on."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        chosen[members[permutation(len(members), label)[: round(part * len(members))]]] = True
    return chosen
