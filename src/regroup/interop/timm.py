"""After `import regroup.interop.timm`, `timm.create_model` knows the networks that timm lacks.

>>> import timm, regroup.interop.timm
>>> timm.create_model("shufflenet_v2_050", num_classes=10).num_classes
10
>>> timm.create_model("shufflenet_v2_050", features_only=True).feature_info.channels()
[24, 24, 48, 96, 192]

A name that timm has stays timm's. So every library that takes timm's models takes ours: as encoders of
segmentation_models_pytorch, "tu-shufflenet_v2_050".
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from timm.models import (
    build_model_with_cfg,
    is_model,
    register_model,
    register_notrace_function,
    register_notrace_module,
)
from torch import nn

from regroup.networks import Network, build, create_model, networks
from regroup.ops.dynamic import DynamicGroupConv
from regroup.ops.scripting import UNTRACEABLE
from regroup.ops.shapes import without_numbers
from regroup.strategies.learning import Learned

default_cfgs: dict[str, dict[str, Any]] = {}
"""What timm reads when it registers an entry point of this module: its description of the weights' input."""


def register() -> list[str]:
    """Register every network whose name timm does not have yet; return these names."""
    names = [name for name in networks if not is_model(name)]
    for name in names:
        default_cfgs[name] = networks[name].expects
        register_model(_entry_point(networks[name]))
    return names


def _entry_point(network: Network) -> Callable[..., nn.Module]:
    """Return the function that timm calls; timm takes the name and the module from the function."""

    @cache
    def description() -> tuple[dict[str, Any], int]:
        with without_numbers():  # to ask it what it is
            model = build(network)
        return model.pretrained_cfg, len(model.feature_info)

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(key, None)
        expects, features = description()
        return build_model_with_cfg(
            partial(create_model, network.name, pretrained=pretrained),
            network.name,
            False,  # create_model loads the weights itself
            pretrained_cfg=dict(expects),
            feature_cfg={"feature_cls": "getter", "out_indices": tuple(range(features))},
            **options,
        )

    create.__name__ = create.__qualname__ = network.name
    create.__module__ = __name__
    setattr(sys.modules[__name__], network.name, create)
    return create


untraceable = UNTRACEABLE
"""Functions that look at sizes, which FX cannot; timm's tracer now leaves them whole.

torchvision's `create_feature_extractor` does, given `tracer_kwargs={"autowrap_functions": untraceable}`.
"""

for function in untraceable:
    register_notrace_function(function)
for module in (DynamicGroupConv, Learned):
    register_notrace_module(module)  # they look at values

registered = register()
"""The names that timm has from us."""
