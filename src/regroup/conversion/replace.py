"""Put a strategy into the convolutions of a network that is there.

>>> model = torchvision.models.resnet18(num_classes=10)
>>> changes = replace(model, "grouped:groups=4", where="layer4.*.conv2")
>>> print(changes)
replaced 2 of 20 convolutions by grouped:groups=4
...
  layer4.1.conv2         512 -> 512 channels, 3x3, padding 1  approximated (error 0.87)
weights: 2 approximated (error 0.87)
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from regroup.errors import ConfigError, ParameterError, unknown_name
from regroup.ops.layers import CONVOLUTIONS, Convolution, OnTokens
from regroup.spec import ConvSpec
from regroup.strategies import Strategy, parse_strategy
from regroup.strategies.starting import Start

Weights = Literal["keep", "fresh"]
Layer = Convolution | nn.Linear
Where = str | int | tuple[int, ...] | type[nn.Module] | Callable[[str, Any], bool] | None

_READERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)
"""Modules that read the weights of their linear layers, and do not call them."""


_FORWARDS = [kind.forward for kind in (*CONVOLUTIONS, nn.Linear)]


_NOT_CHOSEN = "not chosen by where"

_TOLD = 3
"""Of many reasons in one line."""


@dataclass(frozen=True)
class Change:
    """What happened to one convolution.

    Args:
        name: of the layer.
        spec: of the convolution, in words.
        reason: why it was left; empty if it was replaced.
        start: what became of its weights; None if it was left, or if they are not this function's business.
    """

    name: str
    spec: str
    reason: str = ""
    start: Start | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Changes:
    """What `replace` did, layer by layer."""

    strategy: str
    layers: list[Change] = field(default_factory=list)
    kind: str = "convolutions"

    @property
    def replaced(self) -> list[str]:
        """Names of the layers that now use the strategy."""
        return [c.name for c in self.layers if not c.reason]

    @property
    def left(self) -> dict[str, str]:
        """Names of the layers that were left as they were, and why."""
        return {c.name: c.reason for c in self.layers if c.reason}

    @property
    def unfit(self) -> dict[str, str]:
        """Names of the layers that were meant and left all the same, and why."""
        return {name: why for name, why in self.left.items() if why != _NOT_CHOSEN}

    @property
    def misfit(self) -> str:
        """Why the strategy fits none of the layers that are meant; "" if it fits one."""
        if self.replaced:
            return ""
        reasons = sorted(set(self.unfit.values()))
        more = f" ({len(reasons)} reasons in all)" if len(reasons) > _TOLD else ""
        return f"fits none of the layers: {'; '.join(reasons[:_TOLD]) or 'none is chosen'}{more}"

    @property
    def starts(self) -> dict[str, Start]:
        """What became of the weights of each layer that was replaced, by its name."""
        return {c.name: c.start for c in self.layers if c.start is not None}

    @property
    def weights(self) -> str:
        """What became of the weights of all layers, in a line; "" if nothing is known."""
        parts = []
        for how in ("kept", "approximated", "new"):
            alike = [start for start in self.starts.values() if start.weights == how]
            errors = sorted({f"{start.error:.2g}" for start in alike if start.error is not None}, key=float)
            spread = " .. ".join(dict.fromkeys((errors[0], errors[-1]))) if errors else ""
            if alike:
                parts.append(f"{len(alike)} {how}" + (f" (error {spread})" if spread else ""))
        return f"weights: {', '.join(parts)}" if parts else ""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show in a notebook what `print` shows."""
        printer.text(str(self))

    def __str__(self) -> str:
        """Say it in words, a line a layer, and at the end what became of the weights."""
        lines = [f"replaced {len(self.replaced)} of {len(self.layers)} {self.kind} by {self.strategy}"]
        width = max((len(c.name) for c in self.layers), default=0)
        for c in self.layers:
            then = f"  left: {c.reason}" if c.reason else "" if c.start is None else f"  {c.start}"
            lines.append(f"  {c.name:<{width}}  {c.spec}{then}")
        return "\n".join([*lines, *filter(None, [self.weights])])


def replace(
    model: nn.Module, strategy: Strategy | str, where: Where = None, *, weights: Weights = "keep"
) -> Changes:
    """Replace convolutions of `model`, in place, by what `strategy` builds for them.

    >>> encoder = nn.ModuleDict({"query": nn.Linear(64, 64), "key": nn.Linear(64, 64)})
    >>> print(replace(encoder, "condensed", where="query"))
    replaced 1 of 2 linear layers by condensed
      query  64 -> 64 channels, kernel 1, bias  kept
      key    64 -> 64 channels, kernel 1, bias  left: not chosen by where
    weights: 1 kept

    A new module starts from the weights of the convolution: they are kept where it can hold them, else
    approximated as well as can be without data, else new; what is returned says so of each layer. A new
    module takes the mode, device and dtype of the convolution it replaces. Everything else (other layers,
    their weights, hooks, attributes, train or eval mode) stays as it was.

    Args:
        model: any PyTorch model.
        strategy: or its text, such as "grouped:groups=4".
        where: which convolutions, of one, two or three dimensions: a pattern of module names ("layer3.*"), a
            kernel size (3 or (1, 7)), a class, or a function of (name, convolution). By default those larger
            than 1x1 that read more than three channels: what remains is the first layer and pointwise
            convolutions. If it chooses no convolution but linear layers, these are meant: on tokens they are
            convolutions of one tap.
        weights: "keep" starts from those that are there; "fresh" from new ones, to train from scratch.

    Returns:
        What was replaced and what became of its weights, and what was left and why.

    Raises:
        ConfigError: `where` matches nothing, or `model` itself is a layer; `weights` is neither.
    """
    if weights not in get_args(Weights):
        raise ConfigError("weights", weights, " or ".join(map(repr, get_args(Weights))))
    strategy = parse_strategy(strategy) if isinstance(strategy, str) else strategy

    def why_not(layer: Layer) -> str:
        if not isinstance(layer, nn.Linear) and layer.groups > 1:
            return f"it has {layer.groups} groups already"
        return strategy.why_not(ConvSpec.of(layer)) or ""

    def build(layer: Layer) -> Start:
        if weights == "keep":
            start = strategy.from_dense(layer)
        else:
            start = Start(strategy.build(ConvSpec.of(layer)).to(layer.weight), "new")
        on_tokens = isinstance(layer, nn.Linear)
        return dataclasses.replace(start, module=OnTokens(start.module)) if on_tokens else start

    return substitute(model, strategy.label, where, why_not, build, _meant(model, where))


def substitute(
    model: nn.Module,
    label: str,
    where: Where,
    why_not: Callable[[Any], str],
    build: Callable[[Any], Start | nn.Module],
    layers: Sequence[tuple[str, Layer]] | None = None,
) -> Changes:
    """Put what `build` makes of them in place of convolutions of `model`; what all conversions share.

    Layers that compute something of their own, or that have hooks or parametrizations, are left alone.

    Args:
        model: any PyTorch model.
        label: what the convolutions become, in the changes that are told.
        where: see `replace`.
        why_not: returns why a convolution must be left, or ""; may raise ParameterError to say so.
        build: returns the new module, which is set to the convolution's train or eval mode, perhaps with what
            became of its weights.
        layers: those there are, by name; by default all convolutions.

    Raises:
        ConfigError: `where` matches none of them, or `model` itself is a layer.
    """
    chosen, layers = _predicate(where), convolutions_of(model) if layers is None else layers
    linear = bool(layers) and isinstance(layers[0][1], nn.Linear)
    changes = Changes(label, kind="linear layers" if linear else "convolutions")
    done: dict[int, nn.Module] = {}
    for name, conv in layers:
        if id(conv) in done:  # a shared layer stays shared
            put(model, name, done[id(conv)])
            continue
        reason = _NOT_CHOSEN
        if chosen(name, conv):
            reason = why_left(conv, why_not) or _why_needed(model, name)
        start = None
        if not reason:
            built = build(conv)
            start, module = (built, built.module) if isinstance(built, Start) else (None, built)
            done[id(conv)] = module.train(conv.training)
            put(model, name, module)
        changes.layers.append(Change(name, _describe(conv), reason, start))
    if all(c.reason == _NOT_CHOSEN for c in changes.layers):
        near = unknown_name("where", str(where).strip("*"), [c.name for c in changes.layers]).remedy
        raise ConfigError(
            "where", where, "a choice that matches a convolution", near or "print(model) shows the names"
        )
    return changes


def convolutions_of(model: nn.Module) -> list[tuple[str, Convolution]]:
    """Return every convolution of a network by name; a shared one has several.

    Raises:
        ConfigError: `model` is a convolution itself.
    """
    if isinstance(model, (*CONVOLUTIONS, nn.Linear)):
        raise ConfigError(
            "model", type(model).__name__, "a network", "call strategy.build(ConvSpec.of(conv))"
        )
    found = model.named_modules(remove_duplicate=False)
    return [(name, m) for name, m in found if isinstance(m, CONVOLUTIONS)]


def _predicate(where: Where) -> Callable[[str, Any], bool]:
    if isinstance(where, type):
        return lambda name, layer: isinstance(layer, where)
    if callable(where):
        return where
    if where is None:
        return lambda name, conv: max(conv.kernel_size) > 1 and conv.in_channels > 3
    if isinstance(where, str):
        return lambda name, conv: fnmatch.fnmatch(name, where)
    if isinstance(where, int):
        return lambda name, conv: not isinstance(conv, nn.Linear) and set(conv.kernel_size) == {where}
    return lambda name, conv: not isinstance(conv, nn.Linear) and tuple(conv.kernel_size) == tuple(where)


def _meant(model: nn.Module, where: Where) -> Sequence[tuple[str, Layer]]:
    """Return the layers that `where` is about: convolutions, unless it chooses linear layers alone."""
    found, chosen = convolutions_of(model), _predicate(where)
    if where is None or any(chosen(name, layer) for name, layer in found):
        return found
    linear = [(n, m) for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, nn.Linear)]
    try:
        return linear if any(chosen(name, layer) for name, layer in linear) else found
    except AttributeError:  # a function that asks for what only convolutions have
        return found


def _why_needed(model: nn.Module, name: str) -> str:
    """Return why what holds a layer needs it as it is; "" if it does not."""
    parent = model.get_submodule(name.rpartition(".")[0])
    linear = isinstance(model.get_submodule(name), nn.Linear)
    return f"{type(parent).__name__} reads its weights" if linear and isinstance(parent, _READERS) else ""


def why_left(conv: Any, why_not: Callable[[Any], str]) -> str:
    """Return why a layer must be left, for what it is or for what `why_not` says; "" if it need not."""
    if type(conv).forward not in _FORWARDS:
        return f"{type(conv).__name__} computes something of its own"
    if is_parametrized(conv) or conv._forward_hooks or conv._forward_pre_hooks:
        return "it has hooks or parametrizations, which a new module would lose"
    try:
        return why_not(conv)
    except ParameterError as error:
        return str(error)


def _describe(conv: Layer) -> str:
    try:
        return str(ConvSpec.of(conv))
    except ParameterError:
        return conv.extra_repr()


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module where a network has another."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
