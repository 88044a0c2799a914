"""Handwritten digits: real, small, and part of scikit-learn, so that they are there without a download.

1797 grey images of 8 x 8 pixels in 17 shades, of the UCI set "Optical Recognition of Handwritten Digits"
(Alpaydin, Kaynak 1998). About a fifth of each class is the test split, always the same.
"""

from __future__ import annotations

import torch

from regroup.spec import Size
from regroup.training.data.augmentation import Augmentation
from regroup.training.data.dataset import DataSet, TensorSplit, held_out, statistics
from regroup.training.data.sources import data_sets


def digits(image: Size | None = None) -> DataSet:
    """Return scikit-learn's digits, resized to `image` if given; shape (1, height, width)."""
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).reshape(-1, 8, 8).mul(255 / 16).round().to(torch.uint8)[:, None]
    if image is not None and image != (8, 8):
        from torchvision.transforms.v2.functional import resize

        images = resize(images, list(image), antialias=True)
    labels = torch.from_numpy(target)
    test = held_out(labels, 0.2)
    train = TensorSplit(images[~test], labels[~test])
    mean, std = statistics(train.images)
    return DataSet(
        name="digits",
        classes=tuple("0123456789"),
        shape=train.shape,
        train=train,
        test=TensorSplit(images[test], labels[test]),
        mean=mean,
        std=std,
        augmentation=Augmentation("affine"),
    )


data_sets.add("digits", digits)
