"""Other people's libraries as references."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial

import torchvision
from torch import nn


@dataclass(frozen=True)
class Reference:
    """Somebody's implementation with new weights, and what ours must be told to be the same."""

    whose: str
    build: Callable[[], nn.Module]
    options: dict[str, object] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    """Our parameters that it does not have: fixed at zero there."""

    @property
    def recipe(self) -> Hashable:
        """What it is built from. References of one recipe are the same network."""
        return _recipe(self.build)


def _recipe(part: object) -> Hashable:
    if isinstance(part, partial):
        return _recipe(part.func), tuple(map(_recipe, part.args)), _recipe(part.keywords)
    if isinstance(part, dict):
        return tuple((key, _recipe(value)) for key, value in sorted(part.items()))
    return part


def of_torchvision(name: str, ours: dict[str, object] | None = None, **options: object) -> Reference:
    return Reference(
        "torchvision", lambda: getattr(torchvision.models, name)(weights=None, **options), ours or {}
    )


def of_timm(name: str, ours: dict[str, object] | None = None, **options: object) -> Reference:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, **options)

    return Reference("timm", build, ours or {})


def of_pytorchcv(
    module: str, name: str, ours: dict[str, object] | None = None, **options: object
) -> Reference:
    """Its poolings are made for one image size; adaptive ones do the same there and work elsewhere too."""

    def build() -> nn.Module:
        model = getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)(**options)
        if hasattr(model.features, "final_pool"):
            model.features.final_pool = nn.AdaptiveAvgPool2d(1)
        return model

    return Reference("pytorchcv", build, ours or {})
