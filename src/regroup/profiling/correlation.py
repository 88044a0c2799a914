"""Correlation between the filters of neighbouring layers: the block-diagonal picture that grouping draws.

Where a grouped layer feeds a grouped layer, a filter's responses go with those of its own group and with no
others. The picture is that of Deep Roots (Ioannou et al., arXiv:1605.06489), section 5.

>>> _ = torch.manual_seed(0)
>>> model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 1, groups=2))
>>> found = correlation(model, torch.randn(64, 8, 8, 8), "0", "1")
>>> found.matrix.shape, found.concentration(2) > 0.5
(torch.Size([8, 8]), True)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import ConfigError
from regroup.profiling.cost import mode_of


@dataclass(frozen=True, eq=False)
class Correlation:
    """How far the filters of one layer respond together with those of another."""

    first: str
    second: str
    matrix: Tensor
    """|Pearson correlation| over images and pixels: (channels of second, channels of first), 0 to 1.

    A filter that responds the same everywhere has none: 0.
    """

    def inside(self, groups: int) -> float:
        """Return the share of all correlation that lies inside the `groups` blocks on the diagonal.

        Raises:
            ConfigError: `groups` does not divide the channels of both layers.
        """
        for layer, channels in zip((self.second, self.first), self.matrix.shape, strict=True):
            if groups < 1 or channels % groups:
                raise ConfigError("groups", groups, f"a divisor of the {channels} channels of {layer}")
        total = float(self.matrix.sum())
        blocks = self.matrix.unflatten(1, (groups, -1)).sum(2).unflatten(0, (groups, -1)).sum(1)
        return float(blocks.diagonal().sum()) / total if total else 1 / groups

    def concentration(self, groups: int) -> float:
        """Return how much more lies inside the blocks than in an even picture: 0 none, 1 everything."""
        return (self.inside(groups) - 1 / groups) / (1 - 1 / groups) if groups > 1 else 0.0


class _Moments:
    """Sums from which correlations follow, batch by batch; float64, since they cancel."""

    def __init__(self) -> None:
        self.count, self.sums, self.products = 0, torch.zeros(()), torch.zeros(())

    def add(self, samples: Tensor) -> None:
        """Take in (samples, channels)."""
        samples = samples.double()
        if not self.count:
            self.offset = samples.mean(0)  # near the mean, so that little cancels
        samples = samples - self.offset
        self.count += len(samples)
        self.sums = self.sums + samples.sum(0)
        self.products = self.products + samples.t() @ samples

    def correlation(self) -> Tensor:
        """Return |correlation| of every two channels."""
        covariance = self.products / self.count - torch.outer(self.sums, self.sums) / self.count**2
        variance = covariance.diagonal()
        noise = torch.finfo(torch.float32).eps ** 2 * (self.products.diagonal() / self.count + self.offset**2)
        scale = torch.where(variance > noise, variance, torch.inf).rsqrt()
        return (covariance * torch.outer(scale, scale)).abs().clamp(max=1)


def correlation(model: nn.Module, images: Tensor | Iterable[Tensor], first: str, second: str) -> Correlation:
    """Return the correlation between the output channels of two layers.

    Args:
        model: is run in eval mode and left as it was.
        images: a batch (N, C, H, W), or several; the more pixels, the less correlation by chance.
        first: name of a module; gives (N, channels, ...).
        second: likewise, usually the next layer. The larger of two feature maps is averaged down to the
            size of the smaller.

    Raises:
        ConfigError: there is no such module, or it was not run.
    """
    modules = dict(model.named_modules())
    outputs: dict[str, Tensor] = {}
    for parameter, name in (("first", first), ("second", second)):
        if name not in modules:
            raise ConfigError(parameter, name, "the name of a module of the model")

    def keep(name: str):
        return lambda _module, _args, out: outputs.update({name: out.detach()})

    moments, width = _Moments(), 0
    handles = [modules[name].register_forward_hook(keep(name)) for name in (first, second)]
    try:
        with mode_of(model, False), torch.no_grad():
            for batch in (images,) if isinstance(images, Tensor) else images:
                model(batch)
                for parameter, name in (("first", first), ("second", second)):
                    if name not in outputs:
                        raise ConfigError(parameter, name, "the name of a module that is run")
                width = outputs[first].shape[1]
                moments.add(_paired(outputs[first], outputs[second]))
    finally:
        for handle in handles:
            handle.remove()
    return Correlation(first, second, moments.correlation()[width:, :width].float())


def _paired(first: Tensor, second: Tensor) -> Tensor:
    """Return (samples, channels of first + channels of second), a sample being a pixel of an image."""
    first, second = (t if t.ndim == 4 else t.flatten(2).unsqueeze(-1) for t in (first, second))
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    both = torch.cat([F.adaptive_avg_pool2d(first, size), F.adaptive_avg_pool2d(second, size)], 1)
    return both.movedim(1, -1).flatten(0, -2)
