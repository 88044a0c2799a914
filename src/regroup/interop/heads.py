"""Networks with a head for another task than classifying, by name: `unet:shufflenet_v1_g3_100`.

>>> task_of("unet:resnet18"), task_of("lraspp_mobilenet_v3_large"), task_of("resnet18")
('segment', 'segment', 'classify')
>>> backbone_of("timm:resnet18"), backbone_of("unet:timm:resnet18")
(None, 'timm:resnet18')
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from regroup.errors import ConfigError, NetworkError
from regroup.interop.decoders import DECODERS, segmenter
from regroup.lazy import later
from regroup.networks import networks

# torchvision takes as long to import as PyTorch: that is for those who name a detector
DETECTORS = ("fcos", "retinanet", "fasterrcnn", "ssdlite")
detector = later("regroup.interop.detectors", "detector")

HEADS: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    **dict.fromkeys(DECODERS, ("segment", segmenter)),
    **dict.fromkeys(DETECTORS, ("detect", detector)),
}
"""Beginning of a name -> task, and what builds such a network: (head, backbone, num_classes=..., ...)."""

USUAL = {"segment": "unet", "detect": "fcos"}
"""The head that a backbone gets where only the task is said."""

BODY = "body."
"""What stands in the names of a backbone's weights before the names that they have without a head."""


def backbone_of(name: str) -> str | None:
    """Return the name of the backbone, if a name says a head."""
    head, _, backbone = name.partition(":")
    return backbone if head in HEADS and backbone else None


def task_of(name: str) -> str:
    """Return the task that the network of a name is for."""
    if backbone_of(name) is not None:
        return HEADS[name.partition(":")[0]][0]
    if name.removeprefix("regroup:") in networks:
        return "classify"
    import torchvision

    bare = name.removeprefix("torchvision:")
    for task, module in (("segment", "segmentation"), ("detect", "detection")):
        if bare in torchvision.models.list_models(module=getattr(torchvision.models, module)):
            return task
    return "classify"


def with_head(task: str, name: str) -> str:
    """Return the name of a network for a task: as it is, or with the usual head if it is a backbone's.

    >>> with_head("segment", "resnet18"), with_head("segment", "fpn:resnet18")
    ('unet:resnet18', 'fpn:resnet18')

    Raises:
        ConfigError: the name says a head for another task.
    """
    own = task_of(name)
    if own == task:
        return name
    if own != "classify":
        raise ConfigError("model", name, f"a network for the task {task}", f"it is for {own}")
    if task not in USUAL:
        raise ConfigError("task", task, f"one of {', '.join(sorted({'classify', *USUAL}))}")
    return f"{USUAL[task]}:{name}"


def create(name: str, *, num_classes: int | None = None, **options: Any) -> nn.Module:
    """Build the network of a name that says a head; arguments and errors are those of what builds it.

    Raises:
        NetworkError: a new head is asked for, which a network without weights has anyway.
    """
    head, _, backbone = name.partition(":")
    if num_classes is None:
        num_classes = 21  # those of Pascal VOC and the background
    if options.pop("new_head", False):
        raise NetworkError("new_head", True, "False where weights are not those of a run")
    return HEADS[head][1](head, backbone, num_classes=num_classes, **options)


def normalised_outside(model: nn.Module) -> nn.Module:
    """Let a network take normalised images, as all others do, if it is a whole detector of torchvision's."""
    if getattr(model, "transform", None) is None:
        return model
    from regroup.interop import detectors

    return detectors.normalised_outside(model)


def backbone_state(model: nn.Module, state: dict[str, Any]) -> dict[str, Any] | None:
    """Return weights of a network without a head under the names that they have in one with a head.

    Args:
        model: the network with a head.
        state: weights by name; what only the classifier has is left out.

    Returns:
        The weights of all of the backbone; None if some are missing or of another shape.
    """
    own = model.state_dict()
    found = {}
    for key, value in own.items():
        _, body, rest = key.partition(f".{BODY}")
        if not body:
            continue
        if rest not in state or getattr(state[rest], "shape", None) != value.shape:
            return None
        found[key] = state[rest]
    return found or None
