"""What a published network is: its config, its claims, and the family that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regroup.registry import Registry
from regroup.spec import Size

if TYPE_CHECKING:
    from regroup.networks.backbone import Backbone, Config
    from regroup.networks.layouts import Layout

networks: Registry[Network] = Registry("network", "regroup.networks", entry_point="regroup.networks")

SOURCES = {
    "R": "stated in the official repository",
    "C": "counted on the official source code",
    "P": "read in the paper",
    "L": "stated by, or counted on, another library (torchvision, timm, pytorchcv)",
    "S": "quoted from the paper by others",
    "O": "our own count: no one else has this network",
}
"""What the letters of `Claims` mean."""


@dataclass(frozen=True)
class Claims:
    """What is published about a network. A test recomputes the counts; accuracy is quoted.

    Args:
        parameters: exact number of trained numbers.
        mega_macs: MACs of convolutions and linear layers for one image, in millions, to one decimal.
        size: (height, width) of the image for both MACs and accuracy.
        counted: where the two counts come from, a letter of `SOURCES`.
        top1_error: in per cent, one crop (AlexNet's: the mean over ten).
        top5_error: in per cent, likewise.
        stated: where the errors come from, a letter of `SOURCES`.
        data: the data set of the errors.
    """

    parameters: int
    mega_macs: float
    size: Size = (224, 224)
    counted: str = "C"
    top1_error: float | None = None
    top5_error: float | None = None
    stated: str = "R"
    data: str = "ImageNet"


@dataclass(frozen=True)
class Network:
    """A published architecture: what to build, from which numbers, and what is said of it.

    Args:
        name: by which `create_model` knows it.
        build: makes the model from a config.
        config: the numbers of this variant.
        claims: its published figures.
        paper: an arXiv number or a citation.
        source: the official repository, or the one that is followed.
        layouts: the foreign layouts of its weights.
        pretrained: hub weights, "timm:NAME.TAG" or "torchvision:WEIGHTS", or None if no hub has them.
        mean: of the input channels that the weights expect.
        std: of the input channels that the weights expect.
        pool_size: (height, width) of the last feature map, where it is not the image's by the reduction.
    """

    name: str
    build: Callable[[Any], Backbone]
    config: Config
    claims: Claims
    paper: str
    source: str
    layouts: tuple[Layout, ...] = ()
    pretrained: str | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    pool_size: Size | None = None

    @property
    def expects(self) -> dict[str, Any]:
        """What the model expects of its input, in timm's words."""
        return {
            "architecture": self.name,
            "num_classes": self.config.num_classes,
            "input_size": (3, *self.claims.size),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": self.mean,
            "std": self.std,
            "origin_url": f"https://github.com/{self.source}",
            "paper_ids": self.paper,
        }


class Family:
    """The variants of one architecture: what they share is said once.

    Args:
        build: the backbone.
        paper: an arXiv number or a citation.
        source: repository, as owner/name.
        layouts: the foreign layouts of its weights.
        shared: further fields of `Network` that all variants share.
    """

    def __init__(
        self,
        build: type[Backbone],
        *,
        paper: str,
        source: str,
        layouts: tuple[Layout, ...] = (),
        **shared: Any,
    ) -> None:
        self._shared: dict[str, Any] = dict(
            build=build, paper=paper, source=source, layouts=layouts, **shared
        )

    def add(self, name: str, config: Config, claims: Claims, **special: Any) -> Network:
        """Register a variant; `special` are fields of `Network` that only this one has."""
        network = Network(name=name, config=config, claims=claims, **{**self._shared, **special})
        return networks.add(name, network)
