"""The reach of a network: which channels influence which, through groups, shuffles, residuals and concats.

>>> mixed = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ChannelShuffle(2), nn.Conv2d(4, 4, 1, groups=2))
>>> x = torch.zeros(1, 4, 1, 1)
>>> reach(mixed, x, end="0").matrix.int().tolist()
[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
>>> reach(mixed, x).fill
1.0
>>> mixing(mixed, x).depth
2

Everything is asked from what enters one module, `start`, to what leaves another, `end`: the same module for
a layer's or a block's own reach, "" for the network's input and output. Channels are dimension 1; where a
module takes or gives several tensors, their channels are counted on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from regroup.errors import ConfigError
from regroup.ops.reach import fill
from regroup.profiling.cost import mode_of, no_opaque_attention
from regroup.profiling.influence import Influence, Track
from regroup.profiling.rules import BOOLEAN, WEIGHTED, Semiring
from regroup.profiling.where import Where

CHUNK = 128  # sources that are followed at a time: bounds the memory
SIDES = (8, 16, 32, 64, 96, 128)  # sizes that `smallest` tries


@dataclass(frozen=True, eq=False)
class Reach:
    """Which channels that enter `start` influence which channels that leave `end`."""

    start: str
    end: str
    matrix: Tensor
    """Bool (channels that leave, channels that enter)."""
    assumed: tuple[str, ...] = ()
    """Operators without a rule, which were taken to mix everything: the truth may be less."""

    @property
    def fill(self) -> float:
        """Share of pairs that are connected; 1 when mixing is complete."""
        return fill(self.matrix)


@dataclass(frozen=True, eq=False)
class Flow:
    """How much of what leaves `end` comes from which channel that enters `start`, by the size of weights."""

    start: str
    end: str
    matrix: Tensor
    """(channels that leave, channels that enter), shares: a row adds up to at most 1.

    A channel's share in an output of a convolution is its part of the sum of |weight|; additions take the
    mean of their terms. What comes from elsewhere than `start` is missing from the sum.
    """
    assumed: tuple[str, ...] = ()

    def between_groups(self, groups: int) -> Tensor:
        """Return (groups, groups): the mean share that group h (column) has in the channels of group g (row).

        Raises:
            ConfigError: `groups` does not divide the channels on both sides.
        """
        for name, channels in zip(("leave", "enter"), self.matrix.shape, strict=True):
            if groups < 1 or channels % groups:
                raise ConfigError("groups", groups, f"a divisor of the {channels} channels that {name}")
        return self.matrix.unflatten(1, (groups, -1)).sum(2).unflatten(0, (groups, -1)).mean(1)

    def crossing(self, groups: int) -> float:
        """Return the share that comes from other groups: 0 in a grouped layer, 1 - 1/groups if all mix."""
        between = self.between_groups(groups)
        return float(1 - between.diagonal().sum() / between.sum()) if between.any() else 0.0


@dataclass(frozen=True)
class MixingStep:
    """One convolution or linear layer after the start."""

    layer: str
    depth: int
    """Convolutions and linear layers on the longest way from the start, this one included."""
    fill: float
    """Share of (output of this layer, channel that enters the start) pairs that are connected."""


@dataclass(frozen=True)
class Mixing:
    """How a network mixes, layer by layer, what enters `start`; it ends where mixing is complete."""

    start: str
    steps: tuple[MixingStep, ...]
    assumed: tuple[str, ...] = ()

    @property
    def depth(self) -> int | None:
        """Depth of the first layer each of whose outputs depends on every channel; None if there is none."""
        return next((step.depth for step in self.steps if step.fill == 1), None)

    def fill_by_depth(self) -> list[float]:
        """Return the largest fill at depth 1, 2, ..."""
        deepest = max((s.depth for s in self.steps), default=0)
        return [max(s.fill for s in self.steps if s.depth == d) for d in range(1, deepest + 1)]


def reach(model: nn.Module, *inputs: Tensor, start: str = "", end: str = "") -> Reach:
    """Return which channels that enter module `start` influence which channels that leave module `end`.

    Args:
        model: is run in eval mode and left as it was.
        inputs: small images do: what counts is that every kernel sees a pixel.
        start: a name of `model.named_modules()`; "" is the whole.
        end: likewise.

    Raises:
        ConfigError: there is no module of that name, it is not run, or no way leads from start to end.
    """
    matrix, assumed = _between(model, inputs, start, end, BOOLEAN)
    return Reach(start, end, matrix > 0, assumed)


def flow(model: nn.Module, *inputs: Tensor, start: str = "", end: str = "") -> Flow:
    """Return how much of what leaves `end` comes from which channel that enters `start`. See `reach`."""
    return Flow(start, end, *_between(model, inputs, start, end, WEIGHTED))


def mixing(model: nn.Module, *inputs: Tensor, start: str | None = None) -> Mixing:
    """Return how what enters `start` is mixed by the layers after it.

    Args:
        model: is run in eval mode and left as it was.
        inputs: see `reach`.
        start: a module's name. None: of all grouped convolutions the one from which complete mixing takes
            longest, so that the result's depth is the mixing depth of the network (1 without groups); those
            after which the network ends before all is mixed do not count, unless there are no others.

    Raises:
        ConfigError: no module of that name is run, or the model has no convolution.
    """
    if start is not None:
        return _mixings(model, inputs, [start])[0]
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}
    grouped = [name for name, module in convolutions.items() if module.groups > 1]
    if not convolutions:
        raise ConfigError("start", start, "a module's name", "the model has no convolution to start from")
    found = _mixings(model, inputs, grouped or list(convolutions)[:1])
    return max(found, key=lambda m: m.depth or 0)


def smallest(model: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return one image of the inputs, cropped as far as the model takes it: reach is the same, and quicker.

    Args:
        model: is run in eval mode and left as it was.
        inputs: images are those of shape (N, C, H, W); others stay as they are but for the batch.
    """
    single = tuple(t[:1] for t in inputs)
    largest = max((max(t.shape[2:]) for t in single if t.ndim == 4), default=0)
    for side in (side for side in SIDES if side < largest):
        cropped = tuple(t[..., :side, :side] if t.ndim == 4 else t for t in single)
        try:
            with mode_of(model, False), torch.inference_mode():
                model(*cropped)
        except (RuntimeError, ValueError, AssertionError):  # however a model says that an image is too small
            continue
        return cropped
    return single


def depth(model: nn.Module, *inputs: Tensor) -> int:
    """Return the depth of a network: convolutions and matrix products on the longest way through it.

    It is the number in the names of ResNet-50 or VGG-16. A gate (squeeze and excitation) is on the way, too.
    """
    depths = [0]

    def on_mixing(_layer: str, depth: int, _output: Tensor) -> bool:
        depths.append(depth)
        return False

    _run(model, inputs, [_Start("", slice(1), on_mixing)], None, BOOLEAN)
    return max(depths)


class _EnoughError(Exception):
    """Stop running a model: what was asked is known."""


@dataclass(eq=False)
class _Start:
    """A module from which sources are followed."""

    name: str
    sources: slice | None = None
    """Which of the channels that enter it; None means all."""
    on_mixing: Callable[[str, int, Tensor], bool] | None = None
    """See `Track`."""
    entering: int | None = None
    """Channels that enter it; None before it is run."""
    track: Track | None = None


def _mixings(model: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str]) -> list[Mixing]:
    """Return how what enters each of the modules is mixed; the model runs once for all."""
    steps: dict[str, list[MixingStep]] = {name: [] for name in names}
    unfinished = set(names)

    def on_mixing(start: _Start, layer: str, depth: int, output: Tensor) -> bool:
        assert start.track is not None  # it calls
        matrix = start.track.by_channel(output)
        fill = int(matrix.count_nonzero()) / matrix.numel()
        steps[start.name].append(MixingStep(layer, depth, fill))
        if fill < 1:
            return False
        unfinished.remove(start.name)
        if not unfinished:
            raise _EnoughError
        return True

    starts = [_Start(name) for name in names]
    for start in starts:
        start.on_mixing = functools.partial(on_mixing, start)
    _run(model, inputs, starts, None, BOOLEAN)
    return [Mixing(s.name, tuple(steps[s.name]), _assumed(s)) for s in starts]


def _assumed(start: _Start) -> tuple[str, ...]:
    return tuple(sorted(start.track.assumed)) if start.track else ()


def _between(
    model: nn.Module, inputs: tuple[Tensor, ...], start: str, end: str, semiring: Semiring
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the influences (leaving, entering), some entering channels at a time, and what was assumed."""
    columns, assumed, entering, first = [], set[str](), None, 0
    while entering is None or first < entering:
        found: list[Tensor] = []
        source = _Start(start, slice(first, first + CHUNK))
        _run(model, inputs, [source], (end, found), semiring)
        if not found:
            raise ConfigError("end", end, f"a module that what enters {start or 'the network'} reaches")
        columns.append(found[0])
        assumed.update(_assumed(source))
        entering = source.entering
        first += CHUNK
    return torch.cat(columns, 1), tuple(sorted(assumed))


def _run(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    starts: Sequence[_Start],
    end: tuple[str, list[Tensor]] | None,
    semiring: Semiring,
) -> None:
    """Run until the end, where what the first start influences goes into the list."""
    modules = dict(model.named_modules())
    named = [("start", start.name) for start in starts] + ([("end", end[0])] if end else [])
    for parameter, name in named:
        if name not in modules:
            raise ConfigError(parameter, name, "the name of a module of the model")

    def seed(start: _Start, _module: nn.Module, args: tuple, kwargs: dict) -> None:
        if start.track is None:
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.ndim > 1]
            start.track = Track(network, start.on_mixing)
            start.entering = _seed(start.track, tensors, start.sources)
            network.tracks.append(start.track)

    def read(_module: nn.Module, _args: object, out: object) -> None:
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.ndim > 1]
        track = starts[0].track
        if track is not None and end is not None and any(map(track.reaches, tensors)):
            end[1].append(torch.cat([track.by_channel(t) for t in tensors]))
            raise _EnoughError

    hooks = [(start.name, functools.partial(seed, start)) for start in starts]
    handles = [modules[name].register_forward_pre_hook(hook, with_kwargs=True) for name, hook in hooks]
    if end is not None:
        handles.append(modules[end[0]].register_forward_hook(read))
    try:
        with mode_of(model, False), no_opaque_attention(), Where(model) as where, torch.no_grad():
            network = Influence(semiring, where, model)
            network.declare_data(t for t in tree_leaves(inputs) if isinstance(t, Tensor))
            with network:
                model(*inputs)
    except _EnoughError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    for start in starts:
        if not start.entering:
            raise ConfigError("start", start.name, "a module that is run and is given a tensor")


def _seed(track: Track, tensors: list[Tensor], sources: slice | None) -> int:
    """Make each channel of the tensors a source; return how many there are."""
    entering = sum(t.shape[1] for t in tensors)
    wanted = torch.eye(entering)[sources or slice(None)]
    first = 0
    for tensor in tensors:
        mine = wanted[:, first : first + tensor.shape[1]]
        shaped = mine.view(len(wanted), 1, -1, *[1] * (tensor.ndim - 2))
        track.seed(tensor, shaped.expand(-1, *tensor.shape))
        first += tensor.shape[1]
    return entering
