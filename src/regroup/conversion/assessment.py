"""Every layer under every option, before anything is changed: its time, its costs, and the damage it does.

Damage is measured on the network, with this layer alone in its new form: the divergence of what it says of
calibration images from what the original says of them (E6; the database of Frantar, Singh, Alistarh,
arXiv:2208.11580).
"""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from regroup.conversion.budget import Cell, Whole, stand_in
from regroup.conversion.damage import divergence, shares
from regroup.conversion.elsewhere import read_elsewhere
from regroup.conversion.layerspeed import input_shapes, layer_seconds, network_timings
from regroup.conversion.options import DENSE, NARROWEST, STRATEGIES, options_of
from regroup.conversion.regrouping import Method, regroup_layers
from regroup.conversion.replace import convolutions_of, why_left
from regroup.conversion.statistics import collect
from regroup.ops.counting import count
from regroup.profiling.cost import cost
from regroup.spec import ConvSpec


@dataclass(frozen=True)
class Scope:
    """Which layers may change, and into what.

    Args:
        exclude: patterns of names of layers that stay as they are.
        narrowest: channels of a group, at least.
        strategies: that may stand in for a layer, besides groups.
        first: the first convolution may change too; by default it stays (E6).
    """

    exclude: tuple[str, ...] = ()
    narrowest: int = NARROWEST
    strategies: tuple[str, ...] = STRATEGIES
    first: bool = False


def candidates(model: nn.Module, images: Tensor, scope: Scope) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the options of each layer that may change, as they run; and of the others why they may not.

    Args:
        model: the trained network.
        images: that it takes.
        scope: which layers, and into what.

    Raises:
        ConversionError: the network cannot be traced.
    """
    options: dict[str, list[str]] = {}
    left: dict[str, str] = {}
    unique = {name: conv for name, conv in model.named_modules() if isinstance(conv, nn.Conv2d)}
    shapes, others = input_shapes(model, list(unique), images), read_elsewhere(model, images[:1])
    for name, conv in convolutions_of(model):
        if name not in unique:
            continue
        here = "it does not run" if name not in shapes else others.get(name, "")
        left[name] = here or _why_not(name, conv, scope)
    for number, name in enumerate(shapes):
        if not left[name] and number == 0 and not scope.first:
            left[name] = "it is the first"
        if not left[name]:
            found = options_of(unique[name], narrowest=scope.narrowest, strategies=scope.strategies)
            left[name] = (
                "" if len(found) > 1 else f"its groups would have fewer than {scope.narrowest} channels"
            )
            options[name] = found
    return {n: o for n, o in options.items() if not left[n]}, {n: why for n, why in left.items() if why}


def _why_not(name: str, conv: nn.Module, scope: Scope) -> str:
    if any(fnmatch.fnmatch(name, pattern) for pattern in scope.exclude):
        return "it is excluded"
    return why_left(conv, _unfit)


def _unfit(conv: nn.Module) -> str:
    if not isinstance(conv, nn.Conv2d):
        return f"{type(conv).__name__}: only convolutions of images are converted"
    ConvSpec.of(conv)  # whose errors say what is unusual about it
    return f"it has {conv.groups} groups already" if conv.groups > 1 else ""


def whole(model: nn.Module, images: Tensor, *, seconds: float = 1.0, threads: int | None = None) -> Whole:
    """Return what the dense network costs."""
    total = cost(model, images[:1]).total
    timing = network_timings({DENSE: model}, images, seconds=seconds, threads=threads)[DENSE]
    return Whole(timing.median, total.macs, total.parameters)


def assess(
    original: nn.Module,
    options: Mapping[str, Sequence[str]],
    batches: Sequence[Tensor],
    images: Tensor,
    method: Method,
    *,
    known: Mapping[str, Mapping[str, Cell]] | None = None,
    threads: int | None = None,
    on_layer: Callable[[str, dict[str, Cell]], None] = lambda name, cells: None,
) -> dict[str, dict[str, Cell]]:
    """Return layer -> option -> cell; options whose damage is no finite number are none.

    Args:
        original: the trained network; it stays as it is.
        options: of each layer.
        batches: calibration images.
        images: for which the network is timed.
        method: of grouping.
        known: cells from before.
        threads: of the engine.
        on_layer: called after each layer that was not known.
    """
    shapes = input_shapes(original, list(options), images)
    table: dict[str, dict[str, Cell]] = {}
    times: dict[tuple, dict[str, float]] = {}
    told: list[Tensor] = []
    for name, wanted in options.items():
        if known and name in known and set(wanted) <= known[name].keys():
            table[name] = dict(known[name])
            continue
        conv = original.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        modules = {option: stand_in(conv, option) for option in wanted}
        key = (str(conv), shapes[name], *wanted)
        if key not in times:
            times[key] = layer_seconds(modules, shapes[name], threads=threads)
        cells = {}
        told = told or shares(original, batches)
        for option, damage in _damages(original, name, wanted, batches, method, told):
            size = (shapes[name][2], shapes[name][3])
            costs = count(modules[option], size, conv.in_channels)
            cells[option] = Cell(times[key][option], costs.macs, costs.parameters, damage)
        table[name] = cells
        on_layer(name, cells)
    return table


def _damages(
    original: nn.Module,
    name: str,
    options: Sequence[str],
    batches: Sequence[Tensor],
    method: Method,
    told: Sequence[Tensor],
) -> Iterator[tuple[str, float]]:
    seen = collect(original, [name], batches, positions=method.positions, seed=method.seed)
    for option in options:
        if option == DENSE:
            yield option, 0.0
            continue
        model = copy.deepcopy(original)
        regroup_layers(model, original, {name: option}, batches, method, moments=seen)
        damage = divergence(model, told, batches)
        if math.isfinite(damage):  # else nobody can say what it would do
            yield option, damage


def quick(method: Method) -> Method:
    """Return the method by which many options are assessed: sorted by saliency instead of searched for."""
    return replace(method, choice="activation") if method.choice in ("gain", "overlapping") else method
