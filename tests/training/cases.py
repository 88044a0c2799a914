"""A small problem and small networks for the tests of training."""

import torch
from torch import nn

from regroup.training import DataSet, TrainConfig
from regroup.training.data import TensorSplit


def data(count=96, shape=(1, 6, 6), classes=4, name="stripes"):
    """Images whose class is where they are bright, so that every network learns them at once."""
    generator = torch.Generator().manual_seed(7)

    def split(count):
        labels = torch.arange(count) % classes
        images = torch.randint(0, 90, (count, *shape), generator=generator, dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, label * shape[1] // classes : (label + 1) * shape[1] // classes] += 120
        return TensorSplit(images, labels)

    mean, std = (0.4,) * shape[0], (0.2,) * shape[0]
    names = tuple(f"stripe {i}" for i in range(classes))
    return DataSet(name, names, shape, split(count), split(count // 2 + 1), mean, std)


def network(classes=4, channels=1):
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.LazyLinear(classes),
    )


def built(shape=(1, 6, 6), classes=4):
    model = network(classes, shape[0])
    model(torch.zeros(2, *shape))
    return model


def config(**changes):
    return TrainConfig(
        **{"epochs": 3, "batch_size": 16, "lr": 0.05, "device": "cpu", "display": "quiet", **changes}
    )


def equal(a, b):
    """Whether two networks have the same state, bit for bit."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
