"""Budgets: what a network may cost, what each layer could become, and the choice that fits.

>>> parse_budget("time=0.5,params=0.7")
{'time': 0.5, 'params': 0.7}

Times are measured on this machine with the kernels that will run: of each layer alone, of what could stand
in for it, and of whole networks. The time of a network is foreseen as

    T = T_dense - f * sum over layers (t_dense - t_option),

and f is measured by building a network of the wanted shape, whose weights do not matter for its time (E6).
An option that is not faster than the dense layer is none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.conversion.allocation import Candidate, allocate
from regroup.conversion.choosing import choose
from regroup.conversion.layerspeed import network_timings
from regroup.conversion.leastsquares import Problem
from regroup.conversion.options import DENSE, groups_in
from regroup.conversion.replace import convolutions_of, put
from regroup.errors import ConfigError, unknown_name
from regroup.profiling.clock import ratio
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy

KINDS = ("time", "ms", "macs", "params")
"""Of budgets: time as a share of the dense network's; milliseconds; MACs and parameters as shares."""

FASTER = 0.97
"""An option's time over the dense layer's, at most: the clock is not sure of less."""

ROUNDS = 4
"""Networks that are built and timed to foresee times better."""


def parse_budget(text: str | Mapping[str, float]) -> dict[str, float]:
    """Return a budget like "time=0.5,macs=0.6" as numbers by kind.

    Raises:
        UnknownNameError: no such kind.
        ConfigError: a number that cannot be.
    """
    given = dict(text) if isinstance(text, Mapping) else dict(_pair(part) for part in text.split(","))
    for name, value in given.items():
        if name not in KINDS:
            raise unknown_name("budget", name, KINDS)
        most = float("inf") if name == "ms" else 1.0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            allowed = (
                "a number above 0" if name == "ms" else "a share of the dense network's, above 0, at most 1"
            )
            raise ConfigError(name, value, allowed)
    if not given:
        raise ConfigError("budget", text, "one or more of time=, ms=, macs=, params=")
    return given


def _pair(part: str) -> tuple[str, float]:
    name, _, value = part.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ConfigError("budget", part, "of the form time=0.5", "several with commas between") from None


@dataclass(frozen=True)
class Cell:
    """A layer under one option: what it costs for one image or batch, and what it does to the network."""

    seconds: float
    macs: int
    parameters: int
    damage: float


@dataclass(frozen=True)
class Whole:
    """The dense network: seconds of a call on the engine, multiply-adds, parameters."""

    seconds: float
    macs: int
    parameters: int


def chosen(
    table: Mapping[str, Mapping[str, Cell]], whole: Whole, budget: Mapping[str, float], factor: float = 1.0
) -> dict[str, str]:
    """Return the option of each layer that damages least within the budget.

    Args:
        table: layer -> option -> cell; with the option "dense".
        whole: the dense network.
        budget: as `parse_budget` returns it.
        factor: what a second saved in layers alone saves in the network.

    Raises:
        ConfigError: the budget cannot be kept.
    """
    names, layers = list(table), []
    for name in names:
        dense = table[name][DENSE]
        kept = {o: c for o, c in table[name].items() if o == DENSE or c.seconds < FASTER * dense.seconds}
        layers.append({o: _candidate(cell, dense, whole, factor) for o, cell in kept.items()})
    limits = {name: _share(name, most, whole) for name, most in budget.items()}
    left = {name: most - 1.0 for name, most in limits.items()}  # costs are counted from the dense network on
    found = allocate([list(each.values()) for each in layers], left)
    return {name: list(each)[i] for name, each, i in zip(names, layers, found, strict=True)}


def _candidate(cell: Cell, dense: Cell, whole: Whole, factor: float) -> Candidate:
    time = factor * (cell.seconds - dense.seconds) / whole.seconds
    costs = {"time": time, "ms": time}
    costs["macs"] = (cell.macs - dense.macs) / whole.macs
    costs["params"] = (cell.parameters - dense.parameters) / whole.parameters
    return Candidate(cell.damage, costs)


def _share(name: str, most: float, whole: Whole) -> float:
    return most / (1e3 * whole.seconds) if name == "ms" else most


def fitted(
    model: nn.Module,
    images: Tensor,
    table: Mapping[str, Mapping[str, Cell]],
    whole: Whole,
    budget: Mapping[str, float],
    *,
    seconds: float = 1.0,
    threads: int | None = None,
    on_round: Callable[[float, float], None] = lambda wanted, found: None,
) -> tuple[dict[str, str], float]:
    """Return the options of all layers, and the time of such a network over the dense one's, as measured.

    Where the budget names a time, networks are built and timed until one is within it by no more than three
    per cent, or nothing changes any more: the fastest that keeps the budget is returned, or, if none does,
    the fastest.

    Args:
        model: the dense network.
        images: for which it is timed.
        table: what layers could become; see `chosen`.
        whole: the dense network's costs.
        budget: as `parse_budget` returns it.
        seconds: to spend on timing a network.
        threads: of the engine.
        on_round: called with the wanted and the measured share of the dense time.

    Raises:
        ConfigError: the budget cannot be kept.
    """
    times = [_share(name, most, whole) for name, most in budget.items() if name in ("time", "ms")]
    wanted, factor, tried = min(times, default=1.0), 1.0, {}
    for _ in range(ROUNDS):
        try:
            options = chosen(table, whole, budget, factor)
        except ConfigError:
            if not tried:
                raise
            break
        key = tuple(options.items())
        if key in tried:
            break
        timings = network_timings(
            {DENSE: model, "converted": skeleton(model, options)}, images, seconds=seconds, threads=threads
        )
        found = tried[key] = ratio(timings["converted"], timings[DENSE]).median
        on_round(wanted, found)
        saved = sum(cells[DENSE].seconds - cells[options[name]].seconds for name, cells in table.items())
        if not times or saved <= 0 or 0.97 * wanted <= found <= wanted:
            break
        factor = max((1 - found) * whole.seconds / saved, 0.05)
    within = {key: share for key, share in tried.items() if share <= wanted}
    best = max(within, key=within.get) if within else min(tried, key=tried.get)  # type: ignore[arg-type]
    return dict(best), tried[best]


def skeleton(model: nn.Module, options: Mapping[str, str]) -> nn.Module:
    """Return a copy of a network in which layers are what they are to become, with groups drawn at random.

    It takes the time that the converted network will take; what it computes is nothing.
    """
    model = copy.deepcopy(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, option in options.items():
        conv = modules[name]
        assert isinstance(conv, nn.Conv2d)
        new = stand_in(conv, option)
        for alias, there in convolutions_of(model):
            if there is conv:
                put(model, alias, new)
    return model


def stand_in(conv: nn.Conv2d, option: str) -> nn.Module:
    """Return a module of the shape that a layer has under an option."""
    if option == DENSE:
        return conv
    groups, spec = groups_in(option), ConvSpec.of(conv)
    if groups is None:
        return parse_strategy(option).build(spec).to(conv.weight).train(conv.training)
    kernel = conv.weight.detach().double().flatten(2)
    part = choose("random", kernel, torch.empty(0), groups)
    weights = Problem(kernel, torch.empty(0)).masked(part).unflatten(2, spec.kernel_size).to(conv.weight)
    bias = torch.zeros(spec.out_channels).to(conv.weight)
    return part.build(spec, weights, bias).train(conv.training)


def names_of(options: Mapping[str, str]) -> Sequence[str]:
    """Return the layers that do not stay dense."""
    return [name for name, option in options.items() if option != DENSE]
