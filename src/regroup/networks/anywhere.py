"""A network by name, wherever it comes from: ours, timm's or torchvision's.

>>> type(create_any_model("resnet_small", num_classes=10, in_chans=1)).__module__
'regroup.networks.resnet'
"""

from __future__ import annotations

from typing import Any

from torch import nn

from regroup.errors import unknown_name
from regroup.networks import create_model, networks


def create_any_model(
    name: str, *, num_classes: int = 1000, in_chans: int = 3, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build a network of ours, or else of timm, or else of torchvision.

    A prefix chooses one of them: "timm:resnet18", "torchvision:resnet18".

    Args:
        name: of the network.
        num_classes: outputs.
        in_chans: channels of the input image; torchvision's networks take 3 only.
        pretrained: load the weights of the hub.
        options: further options of the network.

    Raises:
        UnknownNameError: nobody has this name; the message gives the nearest ones.
    """
    import timm
    import torchvision

    source, _, bare = name.rpartition(":")
    common: dict[str, Any] = {
        "num_classes": num_classes,
        "in_chans": in_chans,
        "pretrained": pretrained,
        **options,
    }
    if source in ("", "regroup") and bare in networks:
        return create_model(bare, **common)
    if source in ("", "timm") and timm.is_model(bare):
        return timm.create_model(bare, **common)
    if source in ("", "torchvision") and bare in torchvision.models.list_models() and in_chans == 3:
        weights = "DEFAULT" if pretrained else None
        model = torchvision.models.get_model(bare, weights=weights, **options)
        return model if num_classes == 1000 else _with_classes(model, bare, num_classes, options)
    everything = [*networks, *timm.list_models(), *torchvision.models.list_models()]
    allowed = "a network of regroup (`regroup models`), of timm or of torchvision"
    raise unknown_name(
        "model", name, everything, allowed + (", with 3 channels" if in_chans != 3 else ""), near=bare
    )


def _with_classes(model: nn.Module, name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """Build torchvision's network again with another classifier, and keep the weights of the rest."""
    import torchvision

    other = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    shapes = {key: value.shape for key, value in other.state_dict().items()}
    state = {key: v for key, v in model.state_dict().items() if shapes.get(key) == v.shape}
    other.load_state_dict(state, strict=False)
    return other
