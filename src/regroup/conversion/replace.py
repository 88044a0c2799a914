"""Put a strategy into the convolutions of a network that is there.

>>> model = torchvision.models.resnet18(num_classes=10)
>>> changes = replace(model, "grouped:groups=4", where="layer*.conv2")
>>> print(changes)
replaced 8 of 20 convolutions by grouped:groups=4
...
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from regroup.errors import ConfigError, ParameterError, unknown_name
from regroup.spec import ConvSpec
from regroup.strategies import Strategy, parse_strategy

Where = str | int | tuple[int, int] | Callable[[str, nn.Conv2d], bool] | None


@dataclass(frozen=True)
class Change:
    """What happened to one convolution: `reason` says why it was left, or is empty if it was replaced."""

    name: str
    spec: str
    reason: str = ""


@dataclass(frozen=True)
class Changes:
    """What `replace` did, layer by layer."""

    strategy: str
    layers: list[Change] = field(default_factory=list)

    @property
    def replaced(self) -> list[str]:
        """Names of the layers that now use the strategy."""
        return [c.name for c in self.layers if not c.reason]

    @property
    def left(self) -> dict[str, str]:
        """Names of the layers that were left as they were, and why."""
        return {c.name: c.reason for c in self.layers if c.reason}

    def __str__(self) -> str:
        """Say it in words, a line a layer."""
        lines = [f"replaced {len(self.replaced)} of {len(self.layers)} convolutions by {self.strategy}"]
        width = max((len(c.name) for c in self.layers), default=0)
        for c in self.layers:
            lines.append(f"  {c.name:<{width}}  {c.spec}" + (f"  left: {c.reason}" if c.reason else ""))
        return "\n".join(lines)


def replace(model: nn.Module, strategy: Strategy | str, where: Where = None) -> Changes:
    """Replace convolutions of `model`, in place, by what `strategy` builds for them.

    New weights are initialised by their modules; everything else (other layers, their weights, hooks,
    attributes, train or eval mode) stays as it was. A new module takes the mode, device and dtype of the
    convolution it replaces.

    Args:
        model: any PyTorch model.
        strategy: or its text, such as "grouped:groups=4".
        where: which convolutions: a pattern of module names ("layer3.*"), a kernel size (3 or (1, 7)),
            or a function of (name, convolution). By default those larger than 1x1 that read more than
            three channels: what remains is the first layer and pointwise convolutions.

    Returns:
        What was replaced, and what was left and why.

    Raises:
        ConfigError: `where` matches no convolution, or `model` itself is a convolution.
    """
    strategy = parse_strategy(strategy) if isinstance(strategy, str) else strategy

    def why_not(conv: nn.Conv2d) -> str:
        if conv.groups > 1:
            return f"it has {conv.groups} groups already"
        return strategy.why_not(ConvSpec.of(conv)) or ""

    def build(conv: nn.Conv2d) -> nn.Module:
        return strategy.build(ConvSpec.of(conv)).to(conv.weight)

    return substitute(model, strategy.label, where, why_not, build)


def substitute(
    model: nn.Module,
    label: str,
    where: Where,
    why_not: Callable[[nn.Conv2d], str],
    build: Callable[[nn.Conv2d], nn.Module],
) -> Changes:
    """Put what `build` makes of them in place of convolutions of `model`; what all conversions share.

    Convolutions that compute something of their own, or that have hooks or parametrizations, are left alone.

    Args:
        model: any PyTorch model.
        label: what the convolutions become, in the changes that are told.
        where: see `replace`.
        why_not: returns why a convolution must be left, or ""; may raise ParameterError to say so.
        build: returns the new module; it is set to the convolution's train or eval mode.

    Raises:
        ConfigError: `where` matches no convolution, or `model` itself is a convolution.
    """
    chosen = _predicate(where)
    changes = Changes(label)
    done: dict[int, nn.Module] = {}
    for name, conv in _convolutions(model):
        if id(conv) in done:  # a shared layer stays shared
            _put(model, name, done[id(conv)])
            continue
        reason = _why_left(conv, why_not) if chosen(name, conv) else "not chosen by where"
        if not reason:
            done[id(conv)] = build(conv).train(conv.training)
            _put(model, name, done[id(conv)])
        changes.layers.append(Change(name, _describe(conv), reason))
    if all(c.reason == "not chosen by where" for c in changes.layers):
        near = unknown_name("where", str(where).strip("*"), [c.name for c in changes.layers]).remedy
        raise ConfigError(
            "where", where, "a choice that matches a convolution", near or "print(model) shows the names"
        )
    return changes


def _convolutions(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    if isinstance(model, nn.Conv2d):
        raise ConfigError(
            "model", type(model).__name__, "a network", "call strategy.build(ConvSpec.of(conv))"
        )
    found = model.named_modules(remove_duplicate=False)
    return [(name, m) for name, m in found if isinstance(m, nn.Conv2d)]


def _predicate(where: Where) -> Callable[[str, nn.Conv2d], bool]:
    if callable(where):
        return where
    if where is None:
        return lambda name, conv: max(conv.kernel_size) > 1 and conv.in_channels > 3
    if isinstance(where, str):
        return lambda name, conv: fnmatch.fnmatch(name, where)
    size = (where, where) if isinstance(where, int) else tuple(where)
    return lambda name, conv: tuple(conv.kernel_size) == size


def _why_left(conv: nn.Conv2d, why_not: Callable[[nn.Conv2d], str]) -> str:
    if type(conv).forward is not nn.Conv2d.forward:
        return f"{type(conv).__name__} computes something of its own"
    if is_parametrized(conv) or conv._forward_hooks or conv._forward_pre_hooks:
        return "it has hooks or parametrizations, which a new module would lose"
    try:
        return why_not(conv)
    except ParameterError as error:
        return str(error)


def _describe(conv: nn.Conv2d) -> str:
    try:
        return str(ConvSpec.of(conv))
    except ParameterError:
        return conv.extra_repr()


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
