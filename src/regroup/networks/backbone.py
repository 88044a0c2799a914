"""What every network is to its user, once for all: classifier, feature extractor, backbone, as in timm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regroup.errors import NetworkError, SpecError
from regroup.networks.blocks import Stage

if TYPE_CHECKING:
    from regroup.networks import Network

POOLS = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}


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


class Backbone(nn.Module):
    """stem -> stages -> tail -> pool -> hidden -> dropout -> classifier.

    A network builds its parts and hands them over; everything else is here. What flows between the stages
    may be a pair of tensors: then the network overrides `join`. Of all maps of one resolution the last is a
    feature map, as in timm: pyramids and decoders want each resolution once.

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
        last = {reduction: part for part, reduction in enumerate(reductions)}
        self._feature_parts = list(last.values())
        self.feature_info = [
            {"num_chs": widths[part], "reduction": r, "module": f"stages.{part - 1}" if part else "stem"}
            for r, part in last.items()
        ]
        self.grad_checkpointing = False
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.tail = tail or nn.Identity()
        self._pooled = pooled
        self.hidden, self.head_hidden_size = hidden or (nn.Identity(), self.num_features * pooled**2)
        self.drop = nn.Dropout(config.drop_rate)
        self.reset_classifier(config.num_classes, config.global_pool)
        self.init_weights()
        self.register_forward_pre_hook(_check_image)

    # ---- forward

    def forward(self, x: Tensor) -> Tensor:
        """Return logits: (N, in_chans, H, W) -> (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map: (N, in_chans, H, W) -> (N, num_features, h, w)."""
        x = self.stem(x)
        for stage in self.stages:
            x = self.forward_stage(stage, x)
        return self.tail(self.join(x))

    def forward_stage(self, stage: nn.Module, x: Any) -> Any:
        """Run one stage, recomputing its blocks in the backward pass if checkpointing is on."""
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return stage(x)
        for block in stage.children():
            x = checkpoint(block, x, use_reentrant=False)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or what the classifier would get: (N, num_features, h, w) -> (N, num_classes)."""
        x = self.hidden(self.pool(x))
        return x if pre_logits else self.classifier(self.drop(x))

    def join(self, x: Any) -> Tensor:
        """Return one tensor for what flows between stages."""
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return feature maps, with the last one also as `forward_features` gives it.

        Args:
            x: images (N, in_chans, H, W).
            indices: which of `feature_info`; a number means the last ones; None means all.
            norm: accepted for timm's sake: a feature map is what its stage gives.
            stop_early: skip what comes after the last map asked for.
            output_fmt: 'NCHW'.
            intermediates_only: return the list alone.

        Raises:
            NetworkError: another format, or an index that is not there.
        """
        if output_fmt != "NCHW":
            raise NetworkError("output_fmt", output_fmt, "'NCHW'")
        wanted = self._parts_of(indices)
        found = {}
        stop_early = stop_early and intermediates_only
        for index, part in enumerate([self.stem, *self.stages]):
            if stop_early and index > max(wanted):
                break
            x = part(x) if index == 0 else self.forward_stage(part, x)
            if index in wanted:
                found[index] = self.join(x)
        maps = [found[index] for index in wanted]
        return maps if intermediates_only else (self.tail(self.join(x)), maps)

    def _feature_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.feature_info)
        if indices is None or isinstance(indices, int):
            last = count if indices is None else indices
            indices = range(count - last, count)
        found = [count + i if i < 0 else i for i in indices]
        if not found or min(found) < 0 or max(found) >= count:
            raise NetworkError("indices", indices, f"below {count}, the number of feature maps")
        return found

    def _parts_of(self, indices: int | Sequence[int] | None) -> list[int]:
        """Return what gives these feature maps: 0 is the stem, i is stage i - 1."""
        return [self._feature_parts[index] for index in self._feature_indices(indices)]

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what comes after the feature maps `indices`; return them as numbers from 0."""
        self.stages = self.stages[: max(self._parts_of(indices))]
        self.tail = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return self._feature_indices(indices)

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
        """Return a classifier (N, head_hidden_size) -> (N, num_classes) with new weights."""
        layer = nn.Linear(self.head_hidden_size, num_classes)
        self.init_layer(layer)
        return layer

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

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute the blocks in the backward pass."""
        self.grad_checkpointing = enable

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

    def describe(self, network: Network) -> None:
        """Fill `pretrained_cfg`, timm's description of what the model expects."""
        reduction = self.feature_info[-1]["reduction"]
        self.pretrained_cfg: dict[str, Any] = {
            **network.expects,
            "pool_size": network.pool_size or tuple(-(-n // reduction) for n in network.claims.size),
            "first_conv": next(n for n, m in self.named_modules() if isinstance(m, nn.Conv2d)),
            "classifier": "classifier",
        }
        self.default_cfg = self.pretrained_cfg


def _check_image(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A hook, so that tracing by FX does not meet it."""
    (x,) = inputs
    if x.ndim != 4 or x.shape[1] != model.in_chans:
        allowed = f"(N, {model.in_chans}, H, W)"
        raise SpecError("input shape", tuple(x.shape), allowed, "in_chans= of create_model sets the channels")
    if min(x.shape[2:]) < model.min_size:
        least = f"at least {model.min_size} x {model.min_size}"
        raise SpecError("image size", tuple(x.shape[2:]), least, "resize the images")
