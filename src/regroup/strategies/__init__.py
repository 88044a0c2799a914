"""Strategies: ways to do a convolution more cheaply. One file each; adding the file is all there is to do.

>>> parse_strategy("grouped:groups=4").build(ConvSpec(64, 64, 3, padding=1))
Conv2d(64, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=4, bias=False)

A strategy is a small frozen dataclass whose fields are its parameters:

    @strategy("grouped", paper="arXiv:1611.05431")
    class Grouped(Strategy):
        groups: int = 4

        def build(self, spec: ConvSpec) -> nn.Module: ...

`build` alone makes it work everywhere; `check`, `cost`, `reach` and `reference` say beforehand what it
allows, what it costs, what it connects, and what it is by definition; `take` gives a module the weights of a
trained dense convolution, as near as can be. `regroup.testing.check_strategy` holds these against each other.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from regroup.errors import ParameterError, StrategyError, unknown_name
from regroup.lazy import later
from regroup.ops.counting import count
from regroup.ops.layers import Convolution
from regroup.ops.reach import measured_reach
from regroup.registry import Registry
from regroup.spec import ConvSpec, Cost, Extent, divisors
from regroup.strategies.starting import DenseWeights, Start, measured

S = typing.TypeVar("S", bound="Strategy")

_draw = later("regroup.report.draw", "draw")

strategies: Registry[type[Strategy]] = Registry("strategy", __name__, entry_point="regroup.strategies")


class Strategy:
    """A way to stand in for a dense convolution: same input and output shapes, fewer connections.

    Subclasses are frozen dataclasses made by `@strategy(name, paper=...)`.
    """

    name: ClassVar[str]
    """By which the command line, the report and the registry know it."""
    paper: ClassVar[str]
    """Where it was published: an arXiv number or a citation."""
    dims: ClassVar[tuple[int, ...]] = (2,)
    """Numbers of spatial dimensions in which its definition holds; `check` and `build` refuse others."""
    period: ClassVar[int] = 1
    """Outputs after which its effective kernel repeats itself: 2 where a part has half the resolution."""
    resembles: ClassVar[str] = ""
    """Another strategy that shows the same idea: `regroup compare` runs this one with `--all` only."""

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return the settings that `regroup compare --all` runs."""
        return (cls(),)

    @classmethod
    def representative(cls) -> Strategy:
        """Return the variant that stands for all: the default, if it is among them, or the first."""
        found = cls.variants()
        return cls() if cls() in found else found[0]

    def check(self, spec: ConvSpec) -> None:
        """Raise StrategyError, or SpecError, if this strategy cannot honour `spec`."""

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return a module (N, in_channels, *size) -> (N, out_channels, *spec.output_size(size)).

        Raises:
            StrategyError: `check` says that `spec` cannot be honoured.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build(spec)")

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return parameters and MACs for an input of `size`; by default, counted."""
        return count(self.build(spec), size, spec.in_channels)

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return which inputs each output can depend on, bool (out_channels, in_channels).

        By default it is measured on an input just large enough that every branch sees more than one pixel.
        """
        return measured_reach(self.build(spec), spec.in_channels, sample_size(spec))

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute what `module` (built by this strategy) must give, by its definition.

        The definition is written with explicit dense convolutions, with no groups and no permuted
        tensors, so that it can be compared with the papers at a glance.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reference(module, x)")

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Give `module`, just built for `dense.spec`, the weights that come nearest to a dense convolution's.

        Exactly where it can hold them (before it learns), else the best approximation that there is in closed
        form without data.

        Returns:
            Why it cannot start from them, as the end of "new: ..."; "" if it does.
        """
        return f"{self.name} does not say how it starts from dense weights"

    def from_dense(self, conv: Convolution | nn.Linear) -> Start:
        """Return a module that stands in for a dense convolution and starts from its weights; see `Start`.

        >>> start = parse_strategy("grouped:groups=2").from_dense(nn.Conv2d(8, 8, 3, padding=1))
        >>> start.weights, 0.5 < start.error < 0.9
        ('approximated', True)

        Raises:
            StrategyError, SpecError: `check` says that it cannot be honoured.
        """
        module = self.build(ConvSpec.of(conv)).to(conv.weight).train(conv.training)
        if conv.weight.is_meta:
            return Start(module, "new", reason="the convolution has a shape alone")
        dense = DenseWeights.of(conv)
        with torch.no_grad():
            reason = self.take(module, dense)
        if reason:
            return Start(module, "new", reason=reason)
        error = measured(module, dense, self.period)
        return Start(module, "approximated", error) if error else Start(module, "kept")

    def why_not(self, spec: ConvSpec) -> str | None:
        """Return why `spec` cannot be honoured, or None if it can."""
        try:
            self.check(spec)
        except ParameterError as error:
            return str(error)
        return None

    @property
    def label(self) -> str:
        """The strategy as `parse_strategy` reads it: its name and the parameters that are not the default."""
        changed = [
            f"{f.name}={to_text(getattr(self, f.name))}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, f.name) != f.default
        ]
        return self.name + (":" + ",".join(changed) if changed else "")

    def __str__(self) -> str:
        return self.label

    def _repr_svg_(self) -> str | None:
        """Show the picture of `regroup.draw` in a notebook, if there can be one."""
        try:
            return _draw(self)._repr_svg_()
        except ParameterError:
            return None


@typing.dataclass_transform(frozen_default=True)
def strategy(name: str, *, paper: str) -> Callable[[type[S]], type[S]]:
    """Register a class as the strategy called `name`, and make it a frozen dataclass.

    Args:
        name: one lower-case word.
        paper: where it was published.
    """

    def register(cls: type[S]) -> type[S]:
        cls.name, cls.paper = name, paper
        made = dataclass(frozen=True)(cls)
        for method in ("check", "build"):
            setattr(made, method, _in_its_dims(getattr(made, method)))
        strategies.add(name, made)
        return made

    return register


def _in_its_dims(method: Callable) -> Callable:
    """Return a method of a strategy that refuses convolutions of dimensions in which it has no definition."""

    @functools.wraps(method)
    def called(self: Strategy, spec: ConvSpec) -> Any:
        if spec.dims not in self.dims:
            allowed = f"{' or '.join(map(str, self.dims))} for {self.name}"
            raise StrategyError("dims", spec.dims, allowed, "leave this layer as it is")
        return method(self, spec)

    return called


def parse_strategy(text: str) -> Strategy:
    """Return the strategy that a text like 'grouped:groups=4' or 'mixed:kernels=3+5+7' names.

    Parameters follow the colon, separated by commas; a tuple's items are joined by '+'.

    Raises:
        UnknownNameError: no such strategy.
        StrategyError: no such option, or a value that is not of its type.
    """
    name, _, rest = text.partition(":")
    cls = strategies[name.strip()]
    types_of = typing.get_type_hints(cls)
    fields = {f.name: types_of[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for item in filter(None, rest.split(",")):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in fields:
            if not fields:
                raise StrategyError("option", key, f"left out: {name} has none")
            near = unknown_name("option", key, fields)
            raise StrategyError("option", key, f"{near.allowed} of {name}", near.remedy)
        values[key] = _from_text(key, value, fields[key])
    return cls(**values)


def check_groups(spec: ConvSpec, groups: int, parameter: str = "groups") -> None:
    """Raise StrategyError if `groups`, a strategy's `parameter`, does not divide the channels of `spec`."""
    allowed = divisors(spec.in_channels, spec.out_channels)
    if groups not in allowed:
        raise StrategyError(
            parameter,
            groups,
            f"a divisor of in_channels={spec.in_channels} and out_channels={spec.out_channels}",
            f"use one of {', '.join(map(str, allowed))}",
        )


def sample_size(spec: ConvSpec) -> Extent:
    """Return a small input size at which `spec` gives at least 8 outputs in each dimension, 4 of three."""
    least = 8 if spec.dims < 3 else 4
    axes = zip(spec.stride, spec.span, spec.before, spec.after, strict=True)
    return tuple(max(least * s + span - before - after, least) for s, span, before, after in axes)


def _from_text(key: str, value: str, kind: object) -> object:
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value == "none" and type(None) in options:
        return None
    kind = next(k for k in options if k is not type(None))
    if kind is bool:
        if value not in ("true", "false"):
            raise StrategyError(key, value, "true or false")
        return value == "true"
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_from_text(key, v, item) for v in value.split("+"))
    try:
        return kind(value)  # type: ignore[operator]
    except ValueError:
        raise StrategyError(key, value, f"of type {kind.__name__}") from None  # type: ignore[union-attr]


def to_text(value: object) -> str:
    """Return a value of an option as `parse_strategy` reads it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(map(to_text, value))
    return str(value)
