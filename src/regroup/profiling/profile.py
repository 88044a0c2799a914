"""A network's profile: the tree of its layers with what each costs, and how long it takes here.

>>> model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4, bias=False), nn.ReLU())
>>> found = profile(model, torch.zeros(1, 8, 10, 10), time=False)
>>> [(layer.name, layer.kind, layer.cost.macs, layer.cost.dense_macs) for layer in found.layers()]
[('', 'Sequential', 9216, 36864), ('0', 'Conv2d', 9216, 36864), ('1', 'ReLU', 0, 0)]
>>> Profile.from_json(found.to_json()) == found
True
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from regroup.engine.frontend.inputs import of_example
from regroup.engine.running.bound import Bound
from regroup.engine.running.compiled import Compiled
from regroup.errors import ConfigError
from regroup.files.documents import DocumentError, build, parse
from regroup.profiling.clock import Timing, measure
from regroup.profiling.cost import LayerCost, NetworkCost, cost, mode_of
from regroup.profiling.layertime import layer_times
from regroup.profiling.machine import Machine, machine
from regroup.profiling.reach import Mixing, mixing, smallest
from regroup.profiling.reach import reach as follow
from regroup.profiling.table import as_html, table
from regroup.profiling.where import hook_after


@dataclass(frozen=True)
class TimeSpan:
    """Median and quartiles of a measured time, in seconds."""

    median: float
    low: float
    high: float
    verdict: str
    """The clock's: 'quiet', 'noisy' or 'unusable'."""

    @classmethod
    def of(cls, timing: Timing) -> TimeSpan:
        """Return what the profile keeps of a timing."""
        return cls(timing.median, timing.low, timing.high, timing.verdict)


@dataclass(frozen=True)
class LayerProfile:
    """One module, with all that is inside it."""

    name: str
    """As in `model.named_modules()`: "" is the network."""
    kind: str
    """Class of the module."""
    detail: str
    """What a convolution or linear layer is: channels, kernel, stride, groups."""
    output: tuple[int, ...]
    """Shape of the (first) tensor that it gives; empty if it was not run."""
    cost: LayerCost
    """Of one run on the whole batch."""
    time: TimeSpan | None
    """Of one run on the whole batch; that of its parts if it is never called itself; None if not measured."""
    fill: float | None
    """Share of (channel that leaves, channel that enters) pairs that are connected; None if not asked for."""
    parts: tuple[LayerProfile, ...]
    """The modules in it."""

    def layers(self, depth: int | None = None) -> Iterator[LayerProfile]:
        """Yield this module and those inside it, down to `depth` levels below it, in order."""
        yield self
        if depth is None or depth > 0:
            for part in self.parts:
                yield from part.layers(None if depth is None else depth - 1)


@dataclass(frozen=True)
class Profile:
    """What a network costs on inputs of one shape, layer by layer. One MAC is two FLOPs."""

    root: LayerProfile
    inputs: tuple[tuple[int, ...], ...]
    """Shapes of the inputs."""
    training: bool
    """Whether a training step was counted, rather than inference."""
    uncounted: tuple[str, ...]
    """Operators that have no formula, whose MACs are missing."""
    machine: Machine | None
    """Where the time was measured."""
    mixing: Mixing | None
    """How the network mixes channels; None if it was not asked for."""

    @property
    def total(self) -> LayerCost:
        """The cost of the whole network."""
        return self.root.cost

    @property
    def time(self) -> TimeSpan | None:
        """The time of one run, without the clock readings at each layer."""
        return self.root.time

    def layers(self, depth: int | None = None) -> Iterator[LayerProfile]:
        """Yield every module in order, the network first, down to `depth` levels."""
        return self.root.layers(depth)

    def share(self, layer: LayerProfile, of: str = "macs") -> float:
        """Return a layer's part of the network's total: of a field of `LayerCost`, or of "time"."""
        if of == "time":
            return layer.time.median / self.root.time.median if layer.time and self.root.time else 0.0
        whole = getattr(self.total, of)
        return getattr(layer.cost, of) / whole if whole else 0.0

    def __str__(self) -> str:
        """Show the table of all layers, and the totals in words."""
        return table(self)

    def _repr_html_(self) -> str:
        """Show the table of the upper layers in a notebook."""
        return as_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the same table as `print` does where a notebook shows no HTML."""
        printer.text(str(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON's types: units are MACs, bytes and seconds."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the profile as JSON; `from_json` reads it."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Return the profile that `to_json` wrote.

        Raises:
            ConfigError: it is not a profile.
        """
        try:
            return build(parse(text, finite=False), cls)
        except DocumentError as error:
            raise ConfigError("text", text[:40], "the JSON of a profile", str(error)) from None


def profile(
    model: nn.Module,
    inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    training: bool = False,
    time: bool = True,
    reach: bool = False,
    seconds: float = 1.0,
) -> Profile:
    """Return what each layer of a model costs and how long it takes.

    Args:
        model: is left as it was. Time is measured where it is, at its precision and with torch's present
            number of threads.
        inputs: what it is called with: a tensor, a sequence of positional inputs, or a dictionary of keyword
            inputs; among them may be lists and dictionaries of tensors, numbers, strings and None.
        training: count a training step instead of inference. Time and reach are those of inference.
        time: measure it, too.
        reach: also follow which channels reach which (slower: the network runs once for each layer).
        seconds: to spend on measuring.

    Raises:
        ConfigError: `model` is no module.
        EngineError: there is no tensor among the inputs, or something that is no input.
        Exception: whatever the model raises when it is called with these inputs.
    """
    if not isinstance(model, nn.Module):
        allowed = "a torch.nn.Module (a compiled network counts as the one it was made from)"
        raise ConfigError("model", type(model).__name__, allowed)
    model = model.original if isinstance(model, Compiled) else model
    call = of_example(inputs)
    given = call.tensors
    if not given:
        raise ConfigError("inputs", inputs, "a tensor, or a sequence or dictionary with a tensor in it")
    if not call.is_plain:
        options = {"training": training, "time": time, "reach": reach, "seconds": seconds}
        return _of_part(profile(Bound(model, call), given, **options), "model")
    seen = _watch(model, given)
    counted = cost(model, *given, training=training)
    times = _times(model, given, seconds) if time else {}
    small = smallest(model, *given) if reach else given
    fills = _fills(model, _watch(model, small), counted) if reach else {}
    children = {name: list(module.named_children()) for name, module in model.named_modules()}

    def layer(name: str, module: nn.Module) -> LayerProfile:
        named = [(f"{name}.{child}" if name else child, part) for child, part in children[name]]
        parts = tuple(layer(part_name, part) for part_name, part in named if part_name in children)
        return LayerProfile(
            name,
            type(module).__name__,
            _detail(module),
            seen[name].output if name in seen else (),
            counted.of(name),
            times.get(name) or _summed(parts),
            fills.get(name),
            parts,
        )

    return Profile(
        root=layer("", model),
        inputs=tuple(tuple(t.shape) for t in given),
        training=training,
        uncounted=counted.uncounted,
        machine=machine(given[0].device) if time else None,
        mixing=_mixing(model, small) if reach else None,
    )


def _of_part(whole: Profile, part: str) -> Profile:
    """Return the profile of a network whose only part is `part` as that of the part."""

    def name(old: str) -> str:
        return old.removeprefix(part).removeprefix(".")

    def renamed(layer: LayerProfile) -> LayerProfile:
        return replace(layer, name=name(layer.name), parts=tuple(map(renamed, layer.parts)))

    mixing = whole.mixing
    if mixing is not None:
        steps = tuple(replace(step, layer=name(step.layer)) for step in mixing.steps)
        mixing = replace(mixing, start=name(mixing.start), steps=steps)
    root = replace(renamed(whole.root.parts[0]), time=whole.root.time)
    return replace(whole, root=root, mixing=mixing)


def _summed(parts: Sequence[LayerProfile]) -> TimeSpan | None:
    """Return the time of a container whose parts are called one by one."""
    times = [part.time for part in parts if part.time is not None]
    if not times:
        return None
    worst = max((t.verdict for t in times), key=["quiet", "noisy", "unusable"].index)
    return TimeSpan(
        sum(t.median for t in times), sum(t.low for t in times), sum(t.high for t in times), worst
    )


def _times(model: nn.Module, inputs: tuple[Tensor, ...], seconds: float) -> dict[str, TimeSpan]:
    device = inputs[0].device

    def call() -> object:
        return model(*inputs)

    with mode_of(model, False), torch.inference_mode():
        whole = measure(call, seconds=seconds, device=device)
        parts = layer_times(model, call, seconds=seconds, device=device)
    return {name: TimeSpan.of(timing) for name, timing in {**parts, "": whole}.items()}


@dataclass
class _Seen:
    """What went through a module when it was first called."""

    given: tuple
    """Its arguments, of the first image; none if some were given by name."""
    output: tuple[int, ...]
    """Shape of the first tensor that came out."""


def _first(tensor: Tensor) -> Tensor:
    """Return a copy of the first image, or of a tensor that is one number."""
    return tensor[:1].clone() if tensor.dim() else tensor.clone()


def _watch(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}

    def note(name: str):
        def hook(_module: nn.Module, args: tuple, kwargs: dict, out: object) -> None:
            tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            given = () if kwargs else tree_map_only(Tensor, _first, args)
            seen.setdefault(name, _Seen(given, tuple(tensors[0].shape) if tensors else ()))

        return hook

    handles = [hook_after(m, note(name), with_kwargs=True) for name, m in model.named_modules()]
    try:
        with mode_of(model, False), torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _fills(model: nn.Module, seen: dict[str, _Seen], counted: NetworkCost) -> dict[str, float]:
    """Return the fill of each module that convolves or multiplies matrices, each run by itself.

    One that is called with arguments by name cannot be run again without knowing them, and is left out.
    """
    fills = {}
    for name, module in model.named_modules():
        if name in seen and seen[name].given and counted.of(name).macs:
            try:
                fills[name] = follow(module, *seen[name].given).fill
            except ConfigError:  # it is given or gives no tensor with channels
                continue
    return fills


def _mixing(model: nn.Module, inputs: tuple[Tensor, ...]) -> Mixing | None:
    try:
        return mixing(model, *inputs)
    except ConfigError:  # no convolution
        return None


def _detail(module: nn.Module) -> str:
    if isinstance(module, nn.modules.conv._ConvNd):
        sides = "x".join(map(str, module.kernel_size))
        kernel = sides if len(module.kernel_size) > 1 else f"kernel {sides}"
        text = f"{module.in_channels} -> {module.out_channels}, {kernel}"
        for name in ("stride", "dilation"):
            value = getattr(module, name)
            if any(v != 1 for v in value):
                text += f", {name} {value[0] if len(set(value)) == 1 else 'x'.join(map(str, value))}"
        return text + (f", {module.groups} groups" if module.groups > 1 else "")
    if isinstance(module, nn.Linear):
        return f"{module.in_features} -> {module.out_features}"
    return ""
