"""Budgets: what a network may cost, what each layer could become, and the choice that fits.

>>> parse_budget("time=0.5,params=0.7")
{'time': 0.5, 'params': 0.7}

Times are measured on this machine with the kernels that will run: of each layer alone, of what could stand
in for it, and of whole networks. Layers alone say in what proportion options save time, and not how much of
it a network will save, where layers share caches and are fused; so networks of the shape in question are
built, with any weights, and timed (E6). An option that is not faster than the dense layer is none.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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

ROUNDS = 8
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
    table: Mapping[str, Mapping[str, Cell]], whole: Whole, budget: Mapping[str, float], saving: float = 0.0
) -> dict[str, str]:
    """Return the option of each layer that damages least within a budget.

    Args:
        table: layer -> option -> cell; with the option "dense".
        whole: the dense network.
        budget: as `parse_budget` returns it; of it, macs and params count here.
        saving: seconds that all layers together must save, as they were timed alone.

    Raises:
        ConfigError: the budget cannot be kept.
    """
    names, layers = list(table), []
    for name in names:
        dense, options = table[name][DENSE], usable(table[name])
        layers.append({option: _candidate(cell, dense, whole) for option, cell in options.items()})
    left = {}  # costs are counted from the dense network on
    for kind in ("macs", "params"):
        if kind in budget:
            left[kind] = budget[kind] - 1.0
            least = 1.0 + sum(min(each.costs[kind] for each in options.values()) for options in layers)
            if least > budget[kind]:
                allowed = f"at least {least:.3g}, the least that the layers can come to"
                raise ConfigError(kind, budget[kind], allowed)
    if saving:
        left["time"] = -saving
    try:
        found = allocate([list(each.values()) for each in layers], left)
    except ConfigError as error:
        asked = ", ".join(f"{kind}={value:g}" for kind, value in budget.items())
        raise ConfigError(
            "budget", asked, "one that the layers can keep to, all parts of it together"
        ) from error
    return {name: list(each)[i] for name, each, i in zip(names, layers, found, strict=True)}


def usable(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return the options of a layer that are faster than the dense one, and that one."""
    most = FASTER * cells[DENSE].seconds
    return {option: cell for option, cell in cells.items() if option == DENSE or cell.seconds < most}


def _candidate(cell: Cell, dense: Cell, whole: Whole) -> Candidate:
    costs = {"time": cell.seconds - dense.seconds, "macs": (cell.macs - dense.macs) / whole.macs}
    costs["params"] = (cell.parameters - dense.parameters) / whole.parameters
    return Candidate(cell.damage, costs)


@dataclass
class _Search:
    """The saving of layers alone by which a network keeps its time: between too little and enough."""

    wanted: float
    most: float
    whole: float
    low: float = 0.0
    high: float | None = None
    next: float = 0.0

    def __post_init__(self) -> None:
        self.next = max(0.0, min(self.most, (1 - self.wanted) * self.whole))

    def learn(self, saved: float, found: float) -> None:
        """Take in that layers which save `saved` make a network that takes `found` of the dense time."""
        if found > self.wanted:
            self.low = max(self.low, self.next)
        else:
            self.high = self.next if self.high is None else min(self.high, self.next)
        high = self.most if self.high is None else self.high
        guess = saved * (1 - self.wanted) / (1 - found) if found < 1 else high
        inside = self.low < guess < high
        self.next = guess if inside else high if self.high is None else (self.low + high) / 2


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

    Where the budget names a time, networks are built and timed until one keeps it by no more than three per
    cent, or no other is left between one that keeps it and one that does not. Where it names none, the one
    network is timed, and may take what it takes.

    Args:
        model: the dense network.
        images: for which it is timed.
        table: what layers could become; see `chosen`.
        whole: the dense network's costs.
        budget: as `parse_budget` returns it.
        seconds: to spend on timing a network.
        threads: of the engine.
        on_round: called with the wanted (infinite: none) and the measured share of the dense time.

    Raises:
        ConfigError: the budget cannot be kept.
    """
    shares = shares_of_time(budget, whole)
    wanted = min(shares.values(), default=math.inf)
    most = sum(c[DENSE].seconds - min(each.seconds for each in usable(c).values()) for c in table.values())
    search = _Search(wanted, most * (1 - 1e-9), whole.seconds)
    tried: dict[tuple, float] = {}
    for _ in range(ROUNDS):
        options = chosen(table, whole, budget, search.next)
        key = tuple(options.items())
        if key in tried:
            break
        found = 1.0  # of the dense network itself, whatever the clock would say
        if names_of(options):
            networks = {DENSE: model, "": skeleton(model, options)}
            timings = network_timings(networks, images, seconds=seconds, threads=threads)
            found = ratio(timings[""], timings[DENSE]).median
        tried[key] = found
        on_round(wanted, found)
        saved = sum(cells[DENSE].seconds - cells[options[name]].seconds for name, cells in table.items())
        if found <= wanted and (found >= wanted - 0.03 or search.next == 0):
            break
        search.learn(saved, found)
    kept = {key: share for key, share in tried.items() if share <= wanted}
    if kept:
        best = max(kept, key=lambda key: kept[key])
        return dict(best), kept[best]
    least = min(tried.values())
    name = min(shares, key=lambda name: shares[name])
    told = least if name == "time" else 1e3 * least * whole.seconds
    raise ConfigError(name, budget[name], f"at least {told:.3g}, the least that was measured here")


def shares_of_time(budget: Mapping[str, float], whole: Whole) -> dict[str, float]:
    """Return the parts of a budget that are times, by name, as shares of the dense network's."""
    units = {"time": 1.0, "ms": 1e3 * whole.seconds}
    return {name: value / units[name] for name, value in budget.items() if name in units}


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
        return parse_strategy(option).build(replace(spec, bias=True)).to(conv.weight).train(conv.training)
    kernel = conv.weight.detach().double().flatten(2)
    part = choose("random", kernel, torch.empty(0), groups)
    weights = Problem(kernel, torch.empty(0)).masked(part).unflatten(2, spec.kernel_size).to(conv.weight)
    bias = torch.zeros(spec.out_channels).to(conv.weight)
    return part.build(spec, weights, bias).train(conv.training)


def names_of(options: Mapping[str, str]) -> Sequence[str]:
    """Return the layers that do not stay dense."""
    return [name for name, option in options.items() if option != DENSE]
