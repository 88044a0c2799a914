"""The feature maps of a network, as timm gives them: what detectors and decoders stand on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regroup.errors import NetworkError


class FeatureMaps(nn.Module):
    """Stem, stages and tail, and the maps between them.

    Of all maps of one resolution the last is a feature map, as in timm: pyramids and decoders want each
    resolution once.
    """

    stem: nn.Module
    stages: nn.Sequential
    tail: nn.Module
    grad_checkpointing: bool

    def declare_features(self, widths: Sequence[int], reductions: Sequence[int]) -> None:
        """Fill `feature_info`, timm's list of the channels, reduction and module of each feature map.

        Args:
            widths: channels after the stem and after each stage.
            reductions: by how much the map there is smaller than the image.
        """
        last = {reduction: part for part, reduction in enumerate(reductions)}
        self._feature_parts = list(last.values())
        self.feature_info = [
            {"num_chs": widths[part], "reduction": r, "module": f"stages.{part - 1}" if part else "stem"}
            for r, part in last.items()
        ]

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

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute the blocks in the backward pass."""
        self.grad_checkpointing = enable

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
