"""Weights that timm's and torchvision's hubs have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from regroup.errors import CheckpointError
from regroup.networks.state_dicts import State
from regroup.networks.weights import load_weights

if TYPE_CHECKING:
    from regroup.networks.backbone import Backbone
    from regroup.networks.family import Network


def load_pretrained(model: Backbone, network: Network, *, new_head: bool = False) -> None:
    """Load the weights that a hub has for `network`; a classifier of another size stays new.

    Args:
        model: takes the weights.
        network: which weights.
        new_head: the classifier stays new in any case.

    Raises:
        CheckpointError: no hub has them, or they cannot be downloaded.
    """
    if network.pretrained is None:
        raise CheckpointError(network.name, "no hub has its weights; give a file of yours by weights=PATH")
    hub, _, name = network.pretrained.partition(":")
    try:
        state = _HUBS[hub](name)
    except Exception as error:  # each hub has its own types for "no network"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = f"download {name} by hand and give it by weights=PATH"
        raise CheckpointError(f"{hub} {name}", f"cannot be downloaded ({reason}); {advice}") from error
    reference = network.build(network.config)
    load_weights(reference, state, network.layouts)
    state = reference.state_dict()
    if model.in_chans != network.config.in_chans:
        from timm.models import adapt_input_conv

        first = model.pretrained_cfg["first_conv"] + ".weight"
        state[first] = adapt_input_conv(model.in_chans, state[first])
    new_head = new_head or model.num_classes != network.config.num_classes
    load_weights(model, state, new_head=new_head)


def _from_timm(name: str) -> State:
    import timm

    return timm.create_model(name, pretrained=True).state_dict()


def _from_torchvision(name: str) -> State:
    from torchvision.models import get_weight

    return dict(get_weight(name).get_state_dict(check_hash=True, weights_only=True))


_HUBS: dict[str, Callable[[str], State]] = {"timm": _from_timm, "torchvision": _from_torchvision}
