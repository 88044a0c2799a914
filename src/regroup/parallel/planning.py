"""What sharing a network's channels among devices costs, before anything runs.

>>> model = regroup.create_model("alexnet", num_classes=10)
>>> towers = plan(model, 2, torch.empty(1, 3, 227, 227))
>>> [layer.received for layer in towers.layers if layer.name == "stages.0.0.conv"]  # convolution 2
[0]

The network's own code runs on tensors without numbers, forward and backward, as one of the devices would run
it: which parameters are where, and what is sent, is what happened, not what a formula says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import regroup.parallel.rules  # noqa: F401 (registers them)
from regroup.errors import ConfigError, ParallelError
from regroup.parallel.divided import Divided
from regroup.parallel.picture import draw
from regroup.parallel.places import places
from regroup.parallel.refusing import functions_refused, why_not
from regroup.parallel.running import Running, Split, WholeError
from regroup.parallel.text import table
from regroup.parallel.wire import Sent, Wire
from regroup.strategies.learning import learned_modules


@dataclass(frozen=True)
class LayerPlan:
    """One module that has parameters or makes devices talk. Numbers are of the device that has the most.

    Attributes:
        name: of the module.
        kind: its class.
        held: what a device has of its weight, in words.
        parameters: numbers on a device.
        macs: multiply-adds of a device in one forward pass.
        forward: bytes that a device receives in the forward pass.
        backward: and in the backward pass.
        collectives: which they are, forward ones first.
        shape: sizes of the whole output.
    """

    name: str
    kind: str
    held: str
    parameters: int
    macs: int
    forward: int
    backward: int
    collectives: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def received(self) -> int:
        """Bytes that a device receives in a training step."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Load:
    """What one device does in a training step, the one that does the most.

    Attributes:
        received: bytes from other devices.
        parameters: numbers it holds.
        weights: bytes of these, their gradients and their momentum.
        activations: bytes kept for the backward pass.
        macs: multiply-adds of the forward pass.
    """

    received: int
    parameters: int
    weights: int
    activations: int
    macs: int


@dataclass(frozen=True, eq=False)
class Plan:
    """How devices share a network.

    Attributes:
        devices: how many.
        batch: images of a step, all together.
        layers: in the order in which they run.
        groups: a device's load when the devices share the channels.
        data: when they share the images instead.
        splits: how each parameter and buffer is divided, by all its names; others are whole on each device.
        sent: every collective of a training step.
        notes: what runs on whole tensors on all devices, and why, by layer.
    """

    devices: int
    batch: int
    layers: tuple[LayerPlan, ...]
    groups: Load
    data: Load
    splits: dict[str, Split] = field(repr=False)
    sent: tuple[Sent, ...] = field(repr=False)
    notes: dict[str, str]

    def __deepcopy__(self, memo: dict) -> Plan:
        return self  # nothing in it changes

    @cached_property
    def even_batch(self) -> float:
        """The number of images up to which sharing channels moves fewer bytes than sharing images."""
        each = self.groups.received / self.batch
        return self.data.received / each if each else float("inf")

    def received(self, device: int) -> int:
        """Return the bytes that a device receives in a training step."""
        return sum(one.bytes[device] for one in self.sent)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the numbers of the channels, as plain data."""
        return {
            "devices": self.devices,
            "batch": self.batch,
            "groups": asdict(self.groups),
            "data": asdict(self.data),
            "even_batch": self.even_batch,
            "layers": [asdict(layer) for layer in self.layers],
            "notes": dict(self.notes),
        }

    def draw(self, path: str | Path) -> None:
        """Draw what each device holds, and who talks to whom, into a file such as "towers.svg"."""
        draw(self, path)

    def __str__(self) -> str:
        """Say it as a table."""
        return table(self)


def plan(model: nn.Module, devices: int, *inputs: Any) -> Plan:
    """Return how devices share a network's channels, and what that costs.

    Args:
        model: any PyTorch model; is left as it was.
        devices: how many share each image's channels.
        inputs: what a training step gives it, the whole batch; only sizes count. None: one image of the size
            that the network's description (`pretrained_cfg`) names.

    Raises:
        ConfigError: the number of devices fits the groups of no convolution.
        ParallelError: the model cannot run on tensors without numbers, as detectors cannot.
    """
    if devices < 1:
        raise ConfigError("devices", devices, "at least 1")
    inputs = inputs or _expected(model)
    splits, run, found = _decided(model, devices, inputs)
    _, alone, single = _decided(model, 1, inputs)
    _check_fit(model, devices, splits)
    _name_all(model, splits)
    batch = next(t.shape[0] for t in tree_leaves(inputs) if isinstance(t, Tensor))
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    size = sum(p.numel() * p.element_size() for p in parameters.values())
    groups = _load(model, run, found)
    data = Load(
        received=2 * size * (devices - 1) // devices,
        parameters=sum(p.numel() for p in model.parameters()),
        weights=_load(model, alone, single).weights,
        activations=single.kept // devices,
        macs=-(-int(sum(m[0] for m in alone.macs.values())) // devices),
    )
    layers = tuple(_layers(model, run, found))
    sent = tuple(run.wire.log or ())
    return Plan(devices, batch, layers, groups, data, splits, sent, run.notes)


def _name_all(model: nn.Module, splits: dict[str, Split]) -> None:
    """Give what is tied its split under each of its names: a state dict has all of them."""
    every = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    known = {id(t): splits[n] for n, t in every if n in splits}
    splits.update({n: known[id(t)] for n, t in every if id(t) in known})


def _expected(model: nn.Module) -> tuple[Tensor, ...]:
    described: Any = getattr(model, "pretrained_cfg", None)
    if not described:
        raise ConfigError(
            "inputs", (), "what the model is called with", "its description names no image size"
        )
    return (torch.empty((1, *described["input_size"])),)


@dataclass(eq=False)
class _Found:
    """What a run on paper has shown."""

    shapes: dict[str, tuple[int, ...]]
    kept: int


def _decided(model: nn.Module, devices: int, inputs: tuple) -> tuple[dict[str, Split], Running, _Found]:
    """Return how parameters are divided; what a first try needs as a whole, the next one leaves whole."""
    learned = learned_modules(model)  # their Python code reads weights outside of forward
    whole = {
        f"{name}.{n}" for name, m in learned.items() for n, _ in [*m.named_parameters(), *m.named_buffers()]
    }
    while True:
        splits: dict[str, Split] = {}
        try:
            _on_paper(model, devices, inputs, splits, whole, training=False)
            return splits, *_on_paper(model, devices, inputs, splits, whole, training=True)
        except WholeError as error:
            whole.add(error.name)


def _on_paper(
    model: nn.Module, devices: int, inputs: tuple, splits: dict[str, Split], whole: set[str], training: bool
) -> tuple[Running, _Found]:
    """Run a model forward and backward without numbers, as device 0 would."""
    state = _blank_state(model)
    blank = tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), inputs)
    found = _Found({}, 0)
    with _mode(model, training), torch.enable_grad():
        try:
            wire = Wire(0, devices)
            run, outputs = _forward(model, state, blank, wire, splits, frozenset(whole), found)
            total = sum(t.sum() for t in outputs if t.requires_grad)
            if training and isinstance(total, Tensor):
                total.backward()
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            raise ParallelError(why_not(error)) from error
    return run, found


def _forward(
    model: nn.Module, state: dict, inputs: tuple, wire: Wire, splits: dict, whole: frozenset, found: _Found
) -> tuple[Running, list[Tensor]]:
    seen: dict[int, Tensor] = {}
    own = {t.untyped_storage()._cdata for t in state.values()}

    def keep(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory._cdata not in own and memory._cdata not in seen:
            seen[memory._cdata] = tensor
            found.kept += memory.nbytes()
        return tensor

    held: list[Running] = []

    def call(*args: Any) -> list[Tensor]:
        run = Running(wire, model, splits, whole)
        held.append(run)
        with run, places(model, run, found.shapes), functions_refused(run):
            outputs = model(*args)
        return [
            run.whole(t) if isinstance(t, Divided) else t
            for t in tree_leaves(outputs)
            if isinstance(t, Tensor)
        ]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        outputs = _functional(model, state, call, inputs)
    return held[0], outputs


def _functional(model: nn.Module, state: dict[str, Tensor], call: Any, inputs: tuple) -> list[Tensor]:
    """Call with other parameters in the model's place, whoever calls it."""
    with torch.nn.utils.stateless._reparametrize_module(model, state):
        return call(*inputs)


def _blank_state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers without numbers, by name; what is tied stays tied."""
    state: dict[str, Tensor] = {}
    blanks: dict[int, Tensor] = {}
    for name, module in model.named_modules():
        for named in (module.named_parameters, module.named_buffers):
            for full, tensor in named(name, recurse=False, remove_duplicate=False):
                if id(tensor) not in blanks:
                    blanks[id(tensor)] = _blank(tensor)
                state[full] = blanks[id(tensor)]
    return state


def _blank(tensor: Tensor) -> Tensor:
    """Return a tensor without numbers; those of integers, which say what goes where, are kept."""
    if not tensor.is_floating_point():
        return tensor.detach().clone()
    return torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_fit(model: nn.Module, devices: int, splits: dict[str, Split]) -> None:
    """Require that the devices share the groups of at least one convolution, if any has groups."""
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}
    grouped = {n: m.groups for n, m in convolutions.items() if 1 < m.groups < m.in_channels}
    if grouped and not any(g % devices == 0 or devices % g == 0 for g in grouped.values()):
        known = ", ".join(map(str, sorted(set(grouped.values()))))
        allowed = f"a number that divides the groups of a convolution ({known}), or a multiple of them"
        raise ConfigError("devices", devices, allowed)
    if not splits and devices > 1:
        raise ConfigError("devices", devices, "fewer", "no layer of this network has so many outputs")


def _local_size(name: str, tensor: Tensor, splits: dict[str, Split]) -> int:
    """Return how many numbers the device that has the most has of a parameter."""
    split = splits.get(name)
    if split is None:
        return tensor.numel()
    return tensor.numel() // tensor.shape[split.dim] * max(split.division.counts)


def _load(model: nn.Module, run: Running, found: _Found) -> Load:
    sizes = {n: _local_size(n, p, run.splits) for n, p in model.named_parameters()}
    weights = sum(
        sizes[n] * p.element_size() * (3 if p.requires_grad else 1) for n, p in model.named_parameters()
    )
    log = run.wire.log or ()
    received = max(sum(one.bytes[d] for one in log) for d in range(run.wire.devices))
    macs = max(sum(m[d] for m in run.macs.values()) for d in range(run.wire.devices)) if run.macs else 0
    return Load(received, sum(sizes.values()), weights, found.kept, int(macs))


def _layers(model: nn.Module, run: Running, found: _Found) -> Iterator[LayerPlan]:
    log = run.wire.log or ()
    talking = {one.layer for one in log}
    modules = dict(model.named_modules())
    for name in [*found.shapes, *sorted(talking - set(found.shapes))]:
        own = list(modules[name].named_parameters(recurse=False))
        if not own and name not in talking:
            continue
        prefix = f"{name}." if name else ""
        mine = [one for one in log if one.layer == name]
        forward, backward = (
            max(
                (sum(o.bytes[d] for o in mine if o.backward == b) for d in range(run.wire.devices)), default=0
            )
            for b in (False, True)
        )
        yield LayerPlan(
            name,
            type(modules[name]).__name__,
            _held(run.splits.get(f"{prefix}weight"), modules[name]),
            sum(_local_size(prefix + n, p, run.splits) for n, p in own),
            int(max(run.macs.get(name, [0]))),
            forward,
            backward,
            tuple(dict.fromkeys(("backward " if o.backward else "") + o.kind for o in mine)),
            found.shapes.get(name, ()),
        )


def _held(split: Split | None, module: nn.Module) -> str:
    """Say what a device has of a layer."""
    if split is None:
        return "all" if list(module.parameters(recurse=False)) else ""
    most, total = max(split.division.counts), sum(split.division.counts)
    groups: Any = getattr(module, "groups", 1)
    if groups > 1 and groups * most % total == 0:
        return f"{groups * most // total} of {groups} groups"
    return f"{most} of {total} {'inputs' if split.dim else 'outputs'}"
