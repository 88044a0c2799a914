"""The wiring of a module: its operators, and which channel of a tensor goes into which of the next.

>>> found = wiring(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU()), torch.zeros(1, 4, 8, 8))
>>> [step.operator for step in found.steps]
['convolution', 'relu']
>>> found.steps[0].wires[0].relation.int().tolist()
[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]

It is what `profiling.reach` follows through a whole network, kept for each operator: the same rules, and so
the same treatment of masks, orders and views.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from regroup.ops.reach import grouped
from regroup.profiling.cost import mode_of, no_opaque_attention
from regroup.profiling.influence import Influence, Track
from regroup.profiling.reach import CHUNK
from regroup.profiling.rules import BOOLEAN, Call, convolved, pointwise, rule_for
from regroup.profiling.traffic import reads_values
from regroup.profiling.where import Where


@dataclass(frozen=True, eq=False)
class Node:
    """A tensor that was computed, or that entered.

    Args:
        number: of the tensor, counted from those that enter.
        channels: dimension 1; of tensors with more than four dimensions all up to the last two.
        size: what follows the channels, such as (height, width).
    """

    number: int
    channels: int
    size: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Wire:
    """How one tensor goes into another."""

    source: Node
    relation: Tensor
    """Bool (channels of the target, channels of the source)."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operator that was called on data.

    Args:
        operator: its name in PyTorch, without the underscore of those that work in place.
        layer: name of the innermost module that called it.
        target: what it gave.
        wires: from each tensor that it read.
        arguments: by name; those that are tensors are given as their shapes.
    """

    operator: str
    layer: str
    target: Node
    wires: tuple[Wire, ...]
    arguments: dict[str, Any]


@dataclass
class Wiring:
    """What a module does, operator by operator; views are none."""

    inputs: list[Node] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)


def wiring(module: nn.Module, *inputs: Any) -> Wiring:
    """Return the wiring of a module.

    Args:
        module: is run in eval mode and left as it was.
        inputs: of one image; tensors (1, C, H, W), or tuples of them.
    """
    with mode_of(module, False), no_opaque_attention(), Where(module) as where, torch.no_grad():
        recorder = _Recorder(where, module)
        for tensor in _images(inputs):
            recorder.found.inputs.append(recorder.node(tensor))
        with recorder:
            out = module(*inputs)
    recorder.found.outputs = [recorder.nodes[_key(t)] for t in _images(out) if _key(t) in recorder.nodes]
    return recorder.found


class _Recorder(Influence):
    """Keep each operator's own influences, from what it reads to what it gives."""

    def __init__(self, where: Where, module: nn.Module) -> None:
        super().__init__(BOOLEAN, where, module)
        self.found = Wiring()
        self.nodes: dict[int, Node] = {}
        self._whole: dict[int, Tensor] = {}
        """By storage: the tensor as (1, channels, ...); kept, so that no storage is another's later."""

    def node(self, tensor: Tensor) -> Node:
        """Return the node of a tensor that is new, or was written to."""
        whole = tensor
        if tensor.ndim > 4 and len(tensor) == 1:
            whole = tensor.reshape(1, -1, *tensor.shape[-2:])
        channels = whole.shape[1]
        node = Node(len(self.found.inputs) + len(self.found.steps), channels, tuple(whole.shape[2:]))
        self.nodes[_key(tensor)], self._whole[_key(tensor)] = node, whole
        self.declare_data([tensor])
        return node

    def called(self, func: torch._ops.OpOverload, args: tuple, kwargs: dict, out: Any) -> None:
        """Keep a step: what it gave, and how that comes from what it read."""
        given = _images((args, kwargs), least=1)
        outputs = _images(out)
        if not reads_values(func) or not outputs:
            return
        read = {_key(t): self.nodes[_key(t)] for t in given if _key(t) in self.nodes}
        call = Call(func, args, kwargs, out, Track(self))
        relation = self._at_sight(call, list(read), outputs[0])
        tracks = {key: self._tracks(key) for key in read} if relation is None else {}
        for track in (track for some in tracks.values() for track in some):
            track.follow(func, args, kwargs, out)
        if _key(outputs[0]) not in read:
            target = self.node(outputs[0])
        else:  # in place: the rest of the tensor is what it was
            target = self.node(self._whole[_key(outputs[0])])
        whole = self._whole[_key(outputs[0])]
        wires = tuple(
            Wire(node, torch.cat([track.by_channel(whole) > 0 for track in tracks[key]], 1))
            if relation is None
            else Wire(node, relation)
            for key, node in read.items()
        )
        shown = {n: tuple(v.shape) if isinstance(v, Tensor) else v for n, v in call.named.items()}
        name = func._opname.removesuffix("_")
        self.found.steps.append(Step(name, self.where.now(), target, wires, shown))

    def _at_sight(self, call: Call, read: list[int], out: Tensor) -> Tensor | None:
        """Return the relation of what reads one whole tensor and whose wires are plain; else None.

        Following influences through wide layers takes long; most of them are ordinary convolutions.
        """
        given = [t for t in call.given if _key(t) in self.nodes]
        if len(read) != 1 or len(given) != 1:
            return None
        (tensor,), whole = given, self._whole[read[0]]
        if tensor.shape != whole.shape or tensor.stride() != whole.stride():
            return None
        rule = rule_for(call)
        if rule is pointwise and out.shape == tensor.shape and len(call.given) == 1:
            return torch.eye(tensor.shape[1], dtype=torch.bool)
        named = call.named
        if rule is not convolved or named["transposed"] or out.ndim != 4:
            return None
        weight = named["weight"]
        if min(tensor.shape[2:]) < max(weight.shape[2:]) or not Track(self).passes(weight).all():
            return None
        return grouped(out.shape[1], tensor.shape[1], named["groups"])

    def _tracks(self, key: int) -> list[Track]:
        """Return tracks whose sources are the channels of a tensor, some in each."""
        whole = self._whole[key]
        found, channels = [], whole.shape[1]
        for sources in torch.eye(channels).split(CHUNK):
            track = Track(self)
            shaped = sources.view(len(sources), 1, channels, *[1] * (whole.ndim - 2))
            track.seed(whole, shaped.expand(-1, *whole.shape))
            found.append(track)
        return found


def _images(tree: object, least: int = 2) -> list[Tensor]:
    """Return the tensors in a tree that have so many dimensions: with two, the second is the channels."""
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.ndim >= least]


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
