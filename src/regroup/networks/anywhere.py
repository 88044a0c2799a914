"""A network by name, wherever it comes from: ours, timm's or torchvision's.

>>> type(create_any_model("resnet_small", num_classes=10, in_chans=1)).__module__
'regroup.networks.resnet'
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from regroup.errors import CheckpointError, ConfigError, unknown_name
from regroup.networks import create_model, networks
from regroup.networks.hub import asking_timms_hub
from regroup.ops.shapes import without_numbers


def create_any_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    new_head: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a network of ours, or else of timm, or else of torchvision.

    A prefix chooses one of them: "timm:resnet18", "torchvision:resnet18".

    Args:
        name: of the network.
        num_classes: outputs; None: as many as the weights in a file are for, or as the network was published
            with.
        in_chans: channels of the input image; torchvision's networks take 3 only.
        pretrained: load the weights of the hub.
        weights: load those in a .safetensors or .pth file, under the names that the network has.
        new_head: ... all but the classifier's, which stays new.
        options: further options of the network.

    Raises:
        UnknownNameError: nobody has this name; the message gives the nearest ones.
        ConfigError: pretrained, and weights besides.
        CheckpointError: the weights cannot be read or do not fit.
    """
    source, _, bare = name.rpartition(":")
    if pretrained and weights is not None:
        raise ConfigError("pretrained", True, "False where weights are given")
    if source in ("", "regroup") and bare in networks:
        options |= {} if num_classes is None else {"num_classes": num_classes}
        more = {"pretrained": pretrained, "weights": weights, "new_head": new_head}
        return create_model(bare, in_chans=in_chans, **more, **options)
    import timm
    import torchvision

    from regroup.networks.weights import build_for

    if source in ("", "timm") and timm.is_model(bare):
        make = partial(_of_timm, bare, in_chans=in_chans, pretrained=pretrained, **options)
    elif source in ("", "torchvision") and bare in torchvision.models.list_models() and in_chans == 3:
        make = partial(_of_torchvision, bare, pretrained, options)
    else:
        everything = [*networks, *timm.list_models(), *torchvision.models.list_models()]
        allowed = "a network of regroup (`regroup models`), of timm or of torchvision"
        allowed += ", with 3 channels" if in_chans != 3 else ""
        raise unknown_name("model", name, everything, allowed, near=bare)
    chosen = {} if num_classes is None else {"num_classes": num_classes}
    if weights is None:
        return make(**chosen)
    if new_head:
        return _all_but_head(partial(make, **chosen), make, weights)
    try:
        return build_for(lambda **implied: make(**implied | chosen), weights)
    except CheckpointError as error:
        try:
            _all_but_head(partial(make, **chosen), make, weights)
        except CheckpointError:
            raise error from None
        if "new_head" in error.reason:
            raise
        remedy = "new_head=True loads all but the classifier"
        raise CheckpointError(error.path, f"{error.reason}; {remedy}") from None


def published_classes(name: str) -> int | None:
    """Return how many classes the weights that a hub has for a network tell apart; None if nobody says."""
    source, _, bare = name.rpartition(":")
    if source in ("", "regroup") and bare in networks:
        return networks[bare].config.num_classes
    import timm
    import torchvision

    if source in ("", "timm") and timm.is_model(bare):
        known = timm.get_pretrained_cfg(bare, allow_unregistered=True)
        return None if known is None else known.num_classes
    return 1000 if bare in torchvision.models.list_models() else None


def _all_but_head(
    make: Callable[[], nn.Module], any_size: Callable[..., nn.Module], weights: str | Path
) -> nn.Module:
    """Return a network of others' with the weights in a file, but for what the number of classes decides."""
    from regroup.networks.state_dicts import readings, state_of
    from regroup.networks.weights import load_weights

    model = make()
    own = model.state_dict()
    head = own.keys() - same_for_other_classes(model, any_size)
    _, state, _ = state_of(weights)
    _, held = max(readings(state, own.keys()), key=lambda reading: len(own.keys() & reading[1].keys()))
    load_weights(model, {**held, **{key: own[key] for key in head}})
    return model


def same_for_other_classes(model: nn.Module, make: Callable[..., nn.Module]) -> set[str]:
    """Return the tensors of a network that its number of classes does not decide.

    Args:
        model: the network.
        make: builds it with another `num_classes`; nothing is computed.
    """
    own = {key: value.shape for key, value in model.state_dict().items()}
    with without_numbers():
        others = [make(num_classes=count).state_dict() for count in (7, 9)]
    return {key for key in own if all(key in o and o[key].shape == own[key] for o in others)}


def _of_timm(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    import timm

    with asking_timms_hub() if pretrained else nullcontext():
        return timm.create_model(name, pretrained=pretrained, **options)


def _of_torchvision(
    name: str, pretrained: bool, options: dict[str, Any], num_classes: int = 1000
) -> nn.Module:
    import torchvision

    builder = inspect.signature(torchvision.models.get_model_builder(name))
    if "weights_backbone" in builder.parameters:  # whose default is to download them
        options = {"weights_backbone": None, **options}
    model = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    return model if num_classes == 1000 else _with_classes(model, name, num_classes, options)


def _with_classes(model: nn.Module, name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """Build torchvision's network again with another classifier, and keep the weights of the rest."""
    import torchvision

    other = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    shapes = {key: value.shape for key, value in other.state_dict().items()}
    state = {key: v for key, v in model.state_dict().items() if shapes.get(key) == v.shape}
    other.load_state_dict(state, strict=False)
    return other
