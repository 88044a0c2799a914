"""What the report shows of one strategy beside its numbers: reach and filter correlation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from regroup.loading.trained import Trained
from regroup.ops.reach import fill, listed, through
from regroup.profiling.correlation import correlation
from regroup.spec import ConvSpec
from regroup.strategies import Strategy
from regroup.training import DataSet
from regroup.training.data import Loader

SHOWN_CHANNELS = 32
"""Layers of about this many channels are shown: enough to see groups, few enough to see channels."""


def reach_of_layer(strategy: Strategy, network: Trained, learned: dict[str, dict]) -> dict[str, Any]:
    """Return the reach of one layer of the backbone, and how many such layers in a row mix all channels.

    Args:
        strategy: of the layer.
        network: in which it stands.
        learned: the `groupings` of the trained network; groups that were learned are those that count.

    Returns:
        layer: its convolution in words; matrix: rows of 0 and 1, (out, in); layer_fill: share of ones;
        mixing_depth: layers until every channel depends on every channel, or None if none ever does.
    """
    name, spec = _shown_layer(strategy, network)
    groups = learned.get(name, {}).get("groups")
    layer = listed(groups, spec.out_channels, spec.in_channels) if groups else strategy.reach(spec)
    return {
        "layer": str(spec),
        "matrix": layer.int().tolist(),
        "layer_fill": fill(layer),
        "mixing_depth": _layers_to_mix(layer),
    }


def _layers_to_mix(layer: Tensor) -> int | None:
    """Return how many such layers in a row connect everything; None if they only ever repeat themselves."""
    chain, seen = layer, set[bytes]()
    while fill(chain) < 1:
        if (state := chain.numpy().tobytes()) in seen:
            return None
        seen.add(state)
        chain = through(chain, layer)
    return len(seen) + 1


def correlation_of_layers(model: nn.Module, layers: list[str], data: DataSet) -> dict[str, Any]:
    """Return how the channels of two neighbouring layers go together over the test images.

    Args:
        model: the trained network.
        layers: names of the layers that use the strategy, in order.
        data: whose test images are run.

    Returns:
        layers: the two names; matrix: |correlation|, (second, first); nothing if there is no such pair.
    """
    images = next(iter(Loader(data, batch_size=256, train=False))).images
    widths = _output_channels(model, layers, images[:1])
    pairs = [(a, b) for a, b in pairwise(layers) if a in widths and widths[a] == widths.get(b)]
    if not pairs:
        return {}
    first, second = min(pairs, key=lambda pair: abs(widths[pair[0]] - SHOWN_CHANNELS))
    found = correlation(model, images, first, second)
    matrix = [[round(value, 3) for value in row] for row in found.matrix.tolist()]
    return {"layers": f"{first} and {second}", "matrix": matrix}


def _shown_layer(strategy: Strategy, network: Trained) -> tuple[str, ConvSpec]:
    """Return the layer nearest to SHOWN_CHANNELS that the strategy can do, the same for most strategies."""
    model = network.build()
    plain = {
        name: ConvSpec.of(m)
        for name, m in model.named_modules()
        if type(m) is nn.Conv2d and m.groups == 1 and m.padding_mode == "zeros"
    }
    found = [(n, s) for n, s in plain.items() if s.taps > 1 and strategy.why_not(s) is None]
    square = [(n, s) for n, s in found if s.in_channels == s.out_channels and s.stride == (1, 1)]
    return min(square or found, key=lambda pair: abs(pair[1].in_channels - SHOWN_CHANNELS))


def _output_channels(model: nn.Module, layers: list[str], images: torch.Tensor) -> dict[str, int]:
    widths: dict[str, int] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _args, out: widths.update({name: out.shape[1]})

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        with torch.no_grad():
            model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    return widths
