"""AlexNet: five convolutions and three linear layers, numbered differently by everyone."""

from __future__ import annotations

from regroup.networks.layouts import Layout

CONVS = ("stem.conv", "stages.0.0.conv", "stages.1.0.conv", "stages.1.1.conv", "stages.1.2.conv")
HIDDEN = ("hidden.1", "hidden.4", "classifier")


def _names(convs: tuple[str, ...], linears: tuple[str, ...]) -> dict[str, str]:
    return dict(zip((*convs, *linears), (*CONVS, *HIDDEN), strict=True))


CAFFE = _names(tuple(f"conv{i}" for i in range(1, 6)), ("fc6", "fc7", "fc8"))
TORCHVISION = _names(
    tuple(f"features.{i}" for i in (0, 3, 6, 8, 10)), tuple(f"classifier.{i}" for i in (1, 4, 6))
)
PYTORCHCV = _names(
    tuple(f"features.stage{s}.unit{u}.conv" for s, u in ((1, 1), (2, 1), (3, 1), (3, 2), (3, 3))),
    tuple(f"output.fc{i}.fc" if i < 3 else "output.fc3" for i in (1, 2, 3)),
)
JIECAOYU = _names(
    tuple(f"features.{i}" for i in (0, 4, 8, 10, 12)), tuple(f"classifier.{i}" for i in (1, 4, 6))
)
JIECAOYU |= {"features.2": "stages.0.pool.0", "features.6": "stages.1.pool.0"}

ALEXNET = (
    Layout("Caffe", lambda model: CAFFE),
    Layout("torchvision", lambda model: TORCHVISION),
    Layout("pytorchcv", lambda model: PYTORCHCV),
    Layout("jiecaoyu/pytorch_imagenet", lambda model: JIECAOYU, implies=lambda state: {"norm": "batch"}),
)
