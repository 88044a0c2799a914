"""Networks: published architectures of the grouped family, one file per paper, declared as data.

>>> model = create_model("resnet20", num_classes=10)
>>> list_models("resnet1??")
['resnet101', 'resnet110', 'resnet152']

A file holds a config (a frozen dataclass), a backbone built from it, and a family: the table of variants,
each with its config and its published figures. Adding the file is all there is to do:

    family = Family(ResNet, paper="arXiv:1512.03385", source="KaimingHe/deep-residual-networks")
    family.add("resnet50", ResNetConfig(depths=(3, 4, 6, 3)), Claims(25_557_032, 4089.2))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regroup.errors import NetworkError, ParameterError
from regroup.networks.family import SOURCES, Claims, Family, Network, networks

if TYPE_CHECKING:
    from torch import Tensor

    from regroup.networks.backbone import Backbone

__all__ = ["SOURCES", "Claims", "Family", "Network", "build", "create_model", "list_models", "networks"]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    new_head: bool = False,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    **overrides: Any,
) -> Backbone:
    """Build a network by name.

    >>> create_model("resnet18", num_classes=10, widths=(16, 32, 64, 128)).num_features
    128

    Args:
        name: one of `list_models()`.
        num_classes: outputs; 0 gives pooled features; by default those of the published network.
        in_chans: channels of the input image.
        pretrained: load the weights that timm's or torchvision's hub has; a classifier of another size than
            theirs stays new.
        weights: a .safetensors or .pth file, or a state dict, in our layout or in that of the official
            repository, torchvision, timm or pytorchcv. It must fit wholly. Where implementations differ in
            the order of channels (ShuffleNet), the network is built in the order of the weights. Of a
            checkpoint the averaged weights are taken, if it has them; the logger `regroup.networks` tells.
        new_head: with `weights` or `pretrained`: leave the classifier new, and load the rest, e.g. for other
            classes.
        overrides: fields of the network's config: widths, depths, groups, drop_rate, global_pool ...

    Returns:
        A model (N, in_chans, H, W) -> (N, num_classes), in training mode as every new module.

    Raises:
        UnknownNameError: no such network.
        NetworkError: an unknown parameter, or one that cannot work.
        CheckpointError: the weights cannot be read, got or used.
    """
    from regroup.networks import hub
    from regroup.networks import weights as loading

    network = networks[name]
    if pretrained and weights is not None:
        raise NetworkError("pretrained", True, "False where weights= is given")
    if new_head and not pretrained and weights is None:
        raise NetworkError("new_head", True, "False where there are no weights to load", "give weights=")
    if num_classes is not None:
        overrides["num_classes"] = num_classes

    def make(**implied: Any) -> Backbone:
        return build(network, in_chans=in_chans, **implied | overrides)

    if weights is not None:
        return loading.build_for(make, weights, network.layouts, new_head=new_head)
    model = make()
    if pretrained:
        hub.load_pretrained(model, network, new_head=new_head)
    return model


def build(network: Network, **overrides: Any) -> Backbone:
    """Build a network with new weights; `overrides` are fields of its config.

    Raises:
        NetworkError: an unknown parameter, or one that cannot work.
    """
    fields = [f.name for f in dataclasses.fields(network.config)]
    for key, value in overrides.items():
        if key not in fields:
            raise NetworkError(key, value, f"left out: {network.name} has {', '.join(fields)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    try:
        model = network.build(dataclasses.replace(network.config, **values))
    except ParameterError as error:
        raise NetworkError(error.parameter, error.value, error.allowed, error.remedy) from error
    model.describe(network.expects, network.pool_size)
    return model


def list_models(pattern: str = "*") -> list[str]:
    """Return the sorted names that match a shell pattern; a bare word matches anywhere in a name."""
    return networks.names(pattern)
