"""Weights that timm's and torchvision's hubs have."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from regroup.errors import CheckpointError
from regroup.networks.state_dicts import State
from regroup.networks.weights import load_weights

if TYPE_CHECKING:
    from regroup.networks.backbone import Backbone
    from regroup.networks.family import Network


_PATIENCE = 3.0
"""Seconds in which timm's hub must answer."""


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


@contextmanager
def asking_timms_hub() -> Iterator[None]:
    """Take what this machine has of timm's hub if the hub does not answer: it would be tried for a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except OSError as error:  # as all errors of the hub's are
        host = urlsplit(constants.ENDPOINT).hostname
        raise OSError(f"{host} does not answer, and they are not on this machine") from error
    finally:
        constants.HF_HUB_OFFLINE = False


def _answers(address: str) -> bool:
    if getproxies():
        return True  # they know names that this machine may not know
    parts = urlsplit(address)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


def _from_timm(name: str) -> State:
    import timm

    with asking_timms_hub():
        return timm.create_model(name, pretrained=True).state_dict()


def _from_torchvision(name: str) -> State:
    from torchvision.models import get_weight

    return dict(get_weight(name).get_state_dict(check_hash=True, weights_only=True))


_HUBS: dict[str, Callable[[str], State]] = {"timm": _from_timm, "torchvision": _from_torchvision}
