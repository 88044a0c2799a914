"""What every network is to its user, once for all: classifier, feature extractor, backbone, as in timm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from regroup.errors import NetworkError, SpecError
from regroup.networks.blocks import Stage
from regroup.networks.features import FeatureMaps
from regroup.networks.same_padding import SAME, SYMMETRIC, check_padding, pad_as_tensorflow
from regroup.ops.hooks import stateless
from regroup.ops.scripting import graph_of, traceable
from regroup.spec import Size

POOLS = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}


COUNTS = ("in_chans", "groups", "group_width", "factor", "heads", "beta")
"""Fields of configs that are at least 1."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every network can be told; each network's config adds its own numbers.

    Args:
        num_classes: outputs; 0 for none.
        in_chans: channels of the image.
        drop_rate: dropout before the classifier.
        global_pool: 'avg', 'max', or '' for none (then num_classes must be 0).
    """

    num_classes: int = 1000
    in_chans: int = 3
    drop_rate: float = 0.0
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("drop_rate") and not 0 <= value < 1:
                raise NetworkError(name, value, "at least 0 and below 1")
            if name == "width" and value <= 0:
                raise NetworkError(name, value, "above 0")
            if name == "padding":
                check_padding(value)
            if name in COUNTS and (not isinstance(value, int) or value < 1):
                raise NetworkError(name, value, "an int of at least 1")


class Backbone(FeatureMaps):
    """stem -> stages -> tail -> pool -> hidden -> dropout -> classifier.

    A network builds its parts and hands them over; everything else is here. What flows between the stages
    may be a pair of tensors: then the network overrides `join`.

    Args:
        config: the numbers the network was built from.
        stem: everything before the first stage.
        stages: each gives one map; the boundaries lie where the resolution changes.
        widths: channels after the stem and after each stage.
        reductions: by how much the map there is smaller than the image.
        tail: what follows the last stage before the pooling.
        num_features: channels after the tail; by default those of the last stage.
        hidden: what lies between pooling and classifier: takes the pooled (N, num_features, h, w).
        pooled: size to which the pooling pools; 1 for almost all networks.
    """

    min_size: int = 1
    """Smallest height and width of an image."""

    def __init__(
        self,
        config: Config,
        stem: nn.Module,
        stages: Sequence[Stage],
        widths: Sequence[int],
        reductions: Sequence[int],
        *,
        tail: nn.Module | None = None,
        num_features: int | None = None,
        hidden: tuple[nn.Module, int] | None = None,
        pooled: int = 1,
    ) -> None:
        super().__init__()
        self.config: Any = config
        self.in_chans = config.in_chans
        self.num_features = num_features or widths[-1]
        self.declare_features(widths, reductions)
        self.grad_checkpointing = False
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.tail = tail or nn.Identity()
        self._pooled = pooled
        self.hidden, self.head_hidden_size = hidden or (nn.Identity(), self.num_features * pooled**2)
        self.drop = nn.Dropout(config.drop_rate)
        if getattr(config, "padding", SYMMETRIC) == SAME:
            pad_as_tensorflow(self)
        self.reset_classifier(config.num_classes, config.global_pool)
        self.init_weights()
        self.register_forward_pre_hook(_check_image)

    # ---- forward

    @traceable
    def forward(self, x: Tensor) -> Tensor:
        """Return logits: (N, in_chans, H, W) -> (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or what the classifier would get: (N, num_features, h, w) -> (N, num_classes)."""
        x = self.hidden(self.pool(x))
        return x if pre_logits else self.classifier(self.drop(x))

    # ---- head

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one, and the pooling if `global_pool` is given.

        Raises:
            NetworkError: no such pooling, or no pooling before a classifier.
        """
        if global_pool is not None:
            if global_pool not in (*POOLS, ""):
                raise NetworkError("global_pool", global_pool, "'avg', 'max' or ''")
            self.global_pool = global_pool
        if num_classes < 0 or (num_classes and not self.global_pool):
            allowed = "at least 0" if self.global_pool else "0 where global_pool is ''"
            raise NetworkError("num_classes", num_classes, allowed)
        self.num_classes = num_classes
        if self.global_pool:
            flatten = [nn.Flatten()] if isinstance(self.hidden, nn.Identity) else []
            self.pool = nn.Sequential(POOLS[self.global_pool](self._pooled), *flatten)
        else:
            self.pool, self.hidden = nn.Identity(), nn.Identity()
        self.classifier = self.new_classifier(num_classes) if num_classes else nn.Identity()

    def new_classifier(self, num_classes: int) -> nn.Module:
        """Return a classifier (N, head_hidden_size) -> (N, num_classes) with new weights.

        It has a bias, unless the config has the field `bias` and it is False.
        """
        layer = nn.Linear(self.head_hidden_size, num_classes, bias=getattr(self.config, "bias", True))
        self.init_layer(layer)
        return layer

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what comes after the feature maps `indices`; return them as numbers from 0."""
        self.stages = self.stages[: max(self._parts_of(indices))]
        self.tail = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return self._feature_indices(indices)

    # ---- weights and training

    def init_weights(self) -> None:
        """Start all layers anew."""
        self.apply(self.init_layer)

    def init_layer(self, layer: nn.Module) -> None:
        """Give one layer the start that the paper gives it; by default that of He et al. 2015, fan-out."""
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of parameter names from the image to the classifier."""
        fine = [(r"^stages\.(\d+)\.(\d+)", None), (r"^(?:tail|hidden)", (99999,))]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else fine}

    def blocks(self) -> Iterator[tuple[int, int, str]]:
        """Yield (stage, block, name) for every block, poolings left out: what layouts are made from."""
        for s, stage in enumerate(self.stages):
            for name in stage._modules:
                if name != "pool":
                    yield s, int(name), f"stages.{s}.{name}"

    def __prepare_scriptable__(self) -> nn.Module:
        """Return what `torch.jit.script` compiles in the network's place."""
        return graph_of(self)

    def describe(self, expects: Mapping[str, Any], pool_size: Size | None) -> None:
        """Fill `pretrained_cfg`, timm's description of what the model expects.

        Args:
            expects: that of the published network.
            pool_size: of its last map; None: the image's by the reduction.
        """
        reduction = self.feature_info[-1]["reduction"]
        self.pretrained_cfg: dict[str, Any] = {
            **expects,
            "pool_size": pool_size or tuple(-(-n // reduction) for n in expects["input_size"][1:]),
            "first_conv": next(n for n, m in self.named_modules() if isinstance(m, nn.Conv2d)),
            "classifier": "classifier",
        }
        self.default_cfg = self.pretrained_cfg


@stateless
def _check_image(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A hook, so that tracing by FX does not meet it."""
    (x,) = inputs
    if x.ndim != 4 or x.shape[1] != model.in_chans:
        allowed = f"(N, {model.in_chans}, H, W)"
        raise SpecError("input shape", tuple(x.shape), allowed, "in_chans= of create_model sets the channels")
    if min(x.shape[2:]) < model.min_size:
        least = f"at least {model.min_size} x {model.min_size}"
        raise SpecError("image size", tuple(x.shape[2:]), least, "resize the images")
