"""Networks by name with weights from elsewhere: a hub, a file, a run; and those that teach others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from regroup.errors import CheckpointError, ConfigError, RegroupError, UnknownNameError, first_line
from regroup.files.remote import address
from regroup.files.staging import fetched
from regroup.interop import heads
from regroup.loading.kinds import load
from regroup.networks import anywhere
from regroup.networks.weights import build_for


def create(name: str, **options: Any) -> nn.Module:
    """Build a network by name: of ours, timm's or torchvision's, or one of them with a head for a task.

    Arguments and errors are those of `networks.anywhere.create_any_model` and `interop.heads.create`.
    """
    if heads.backbone_of(name) is None:
        return heads.normalised_outside(anywhere.create_any_model(name, **options))
    weights = options.pop("weights", None)
    if weights is None:
        return heads.create(name, **options)
    chosen = {key: options.pop(key) for key in ("num_classes",) if options.get(key) is not None}
    return build_for(lambda **implied: heads.create(name, **options, **{**implied, **chosen}), weights)


def named(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Return a network of ours, timm's or torchvision's, or one of them with a head for a task.

    >>> named("resnet_small", num_classes=10, in_chans=1).num_classes
    10

    Args:
        name: of the network.
        pretrained: load the weights of the hub.
        options: as for `create`: weights, num_classes, ...

    Raises:
        UnknownNameError: nobody has this name.
        CheckpointError: the weights cannot be had, read or used.
    """
    try:
        return create(name, pretrained=pretrained, **options)
    except RegroupError:
        raise
    except Exception as error:  # hubs, and what they download with, have types of their own
        if not pretrained:
            raise
        reason = f"its pretrained weights cannot be had ({type(error).__name__}: {first_line(error)})"
        remedy = "is there a connection, and does the hub have them?"
        raise CheckpointError(name, f"{reason}; {remedy}") from error


def teacher(
    said: str, student: str, *, num_classes: int, in_chans: int, options: Mapping[str, Any]
) -> nn.Module:
    """Return a trained network that teaches another, in eval mode.

    Args:
        said: the directory of a run; a name, whose weights a hub has; a file of weights of the student's
            network, as it is without a grouping; or NAME=FILE. Directory and FILE may be URLs.
        student: name of the student's network.
        num_classes: what the network in a file must tell apart.
        in_chans: channels of the images.
        options: of the student's network.

    Raises:
        UnknownNameError: nobody has this name.
        CheckpointError: there is no such run, or the weights cannot be had, read or used.
    """
    name, equals, file = said.partition("=")
    path = Path(said)
    if path.is_file():
        name, file, more = student, said, dict(options)
    elif equals and not path.is_dir():
        more = {}
    elif path.is_dir() or "/" in said or said.startswith("."):
        return load(path)
    else:
        try:
            return named(said, pretrained=True, in_chans=in_chans).eval()
        except UnknownNameError as error:
            allowed = "the directory of a run, a file of weights, NAME=FILE, or the name of a network"
            raise UnknownNameError("teacher", said, allowed, error.remedy) from None
    with fetched(Path(file)) as weights:
        return named(name, weights=weights, num_classes=num_classes, in_chans=in_chans, **more).eval()


def told(said: str) -> str:
    """Return what `teacher` understands from any working directory."""
    name, equals, file = said.partition("=")
    if address(said) or (equals and address(file)):
        return said
    if Path(said).exists() or ("/" in said and not equals):
        return str(Path(said).absolute())
    return f"{name}={Path(file).absolute()}" if equals else said


def read_options(option: str, texts: Iterable[str]) -> dict[str, Any]:
    """Return {name: value} of texts like name=value; values are JSON, or else text.

    Args:
        option: what they are called.
        texts: as given.

    Raises:
        ConfigError: a text has another form.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(option, text, "of the form name=value")
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = value
    return options
