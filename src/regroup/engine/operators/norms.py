"""Norms by an image's own moments: of groups of channels over all pixels, of the channels of each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.engine.graph import Graph, Node, Op, Shape, Value
from regroup.engine.operator import Operator
from regroup.engine.placing.places import Place, Slab
from regroup.engine.placing.slots import ACTIVATION, slots_of
from regroup.engine.placing.tasks import Tasks
from regroup.engine.recognition import Call, known, name_of, recognises, recognises_several
from regroup.kernels import problems as kernels


@dataclass(frozen=True, eq=False)
class GroupNorm(Operator):
    """(x - mean) / sqrt(var + eps) * weight + bias, with moments of `groups` of channels over all pixels.

    As many groups as channels are instance norm (torch.nn.InstanceNorm2d), one is layer norm over all.
    """

    groups: int
    eps: float
    weight: Tensor
    bias: Tensor

    slots = ACTIVATION
    word = "group norm"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)

    def shape(self, *inputs: Shape) -> Shape:
        if not self.weight.shape == self.bias.shape == inputs[0][:1] or inputs[0][0] % self.groups:
            raise ValueError(f"weight {list(self.weight.shape)} in {self.groups} groups")
        return inputs[0]

    def lower(self, node: Node, tasks: Tasks) -> None:
        channels, activation = tuple(range(node.output.shape[0])), slots_of(node).activation
        x, y = tasks.aligned(node.inputs[0], channels), tasks.settle(node, channels)
        moments, scales = (
            Place(Slab(1, 1, 2 * len(channels)), tuple(range(2 * len(channels)))) for _ in range(2)
        )
        tasks.add(
            "moments of channels", (x,), moments, lambda: kernels.Moments(x.view(), moments.view()), {}, node
        )
        tasks.add(
            "moments of groups",
            (moments,),
            scales,
            lambda: kernels.NormScales(moments.view(), scales.view(), self.groups, self.eps),
            {"weight": self.weight, "bias": self.bias},
            node,
        )
        tasks.add(
            node.op.word,
            (x, scales),
            y,
            lambda: kernels.Modulate(x.view(), y.view(), scales.view(), activation),
            {},
            node,
        )


@dataclass(frozen=True, eq=False)
class LayerNorm(Operator):
    """The same with moments of the channels of each pixel, as ConvNeXt has it."""

    eps: float
    weight: Tensor
    bias: Tensor

    word = "layer norm"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        last, weight, bias = x.movedim(1, -1), self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(last, last.shape[-1:], weight, bias, self.eps).movedim(-1, 1)

    def shape(self, *inputs: Shape) -> Shape:
        if not self.weight.shape == self.bias.shape == inputs[0][:1]:
            raise ValueError(f"weight {list(self.weight.shape)}")
        return inputs[0]

    def lower(self, node: Node, tasks: Tasks) -> None:
        channels = tuple(range(node.output.shape[0]))
        x, y = tasks.aligned(node.inputs[0], channels), tasks.settle(node, channels)
        tasks.add(
            node.op.word,
            (x,),
            y,
            lambda: kernels.LayerNorm(x.view(), y.view(), self.eps),
            {"weight": self.weight, "bias": self.bias},
            node,
        )


def affine(channels: int, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a norm's weights and biases, ones and zeros where it has none."""
    ones, zeros = torch.ones(channels), torch.zeros(channels)
    return ones if weight is None else weight, zeros if bias is None else bias


@recognises("native_group_norm")
def _group_norm(call: Call) -> Op | None:
    if len(call.out) != 3 or not known(call.weight, call.bias):
        return None
    return GroupNorm(call.group, call.eps, *affine(call.out[0], call.weight, call.bias))


@recognises("native_layer_norm")
def _layer_norm(call: Call) -> Op | None:
    """Of a vector; of images whose channels are last, see `frontend/arrangements`."""
    if len(call.out) != 1 or tuple(call.normalized_shape) != call.out or not known(call.weight, call.bias):
        return None
    return LayerNorm(call.eps, *affine(call.out[0], call.weight, call.bias))


@recognises_several
def recognise_instance_norm(graph: Graph) -> None:
    """Replace batch normalisation, of a batch's channels as channels of one image, by `GroupNorm`."""
    producers = graph.producers()
    for node in graph.nodes:
        norm = _made_by(producers, node, "reshape", "native_batch_norm")
        whole = None if norm is None else _made_by(producers, norm, "native_batch_norm", "reshape")
        if norm is None or whole is None:
            continue
        image, y = whole.inputs[0], node.output
        alike = image.native and y.native and image.shape == y.shape and image.per == y.per == 1
        op = _instance_norm(norm, image.shape) if alike and len(y.shape) == 3 else None
        if op is not None:
            node.op, node.inputs = op, (image,)
    graph.remove_dead()


def _made_by(producers: dict[Value, Node], node: Node, name: str, before: str) -> Node | None:
    """Return the node before `node`, if they have these names."""
    found = producers.get(node.inputs[0]) if name_of(node) == name and node.inputs else None
    return found if found is not None and name_of(found) == before else None


def _instance_norm(norm: Node, image: Shape) -> GroupNorm | None:
    _, weight, bias, mean, variance, training, _, eps = norm.op.args
    if not training or mean is not None or variance is not None or not known(weight, bias):
        return None
    one, together, *pixels = norm.output.shape
    if norm.output.batched or one != 1 or tuple(pixels) != image[1:] or together % image[0]:
        return None  # channels of a batch in another way
    own = []
    for whole in (weight, bias):
        part = None if whole is None else whole[: image[0]]
        if part is not None and not torch.equal(whole, part.repeat(together // image[0])):
            return None
        own.append(part)
    return GroupNorm(image[0], eps, *affine(image[0], *own))
