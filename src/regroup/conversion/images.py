"""The images that a conversion looks at: of the training split, as they are, without labels.

>>> from regroup.training import load_data
>>> batches = calibration(load_data("digits"), 100, batch_size=64)
>>> [len(batch) for batch in batches]
[50, 50]
"""

from __future__ import annotations

from torch import Tensor

from regroup.errors import DataError
from regroup.training.data import DataSet, Loader
from regroup.training.data.augmentation import NO_AUGMENTATION

LEAST = 16
"""Images without which nothing can be said of a layer."""


def calibration(data: DataSet, count: int = 512, *, batch_size: int = 64, seed: int = 0) -> list[Tensor]:
    """Return so many images of the training split, drawn at random and normalised, in batches of one size.

    Args:
        data: the data set.
        count: images; fewer if there are not so many.
        batch_size: images in a batch, at most.
        seed: of the draw.

    Raises:
        DataError: there are fewer than 16 images.
    """
    count = min(count, len(data.train))
    if count < LEAST:
        raise DataError(data.name, f"has {count} images to calibrate with; {LEAST} or more are needed")
    size = count // -(-count // batch_size)
    loader = Loader(data, size, seed=seed, augmentation=NO_AUGMENTATION)
    found: list[Tensor] = []
    for batch in loader.batches():
        found.append(batch.images)
        if sum(map(len, found)) + size > count:
            break
    return found
