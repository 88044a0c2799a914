"""TorchScript: what `torch.jit.script` compiles is the graph of a network or layer, as FX sees it.

>>> import torch
>>> from regroup.networks import create_model
>>> model = create_model("shufflenet_v2_050", num_classes=10).eval()
>>> scripted = torch.jit.script(model)
>>> x = torch.rand(1, 3, 64, 64)
>>> torch.equal(scripted(x), model(x))
True

So networks are written in plain Python, and not in the part of it that TorchScript reads. The graph
is that of the mode, training or not, that the network is in. PyTorch puts it in the place of the network
where that is inside of another module: script a copy of such a module if it is used afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from torch import fx, nn

from regroup.errors import NetworkError
from regroup.ops import resolution
from regroup.ops.accelerate import ACCELERATED
from regroup.ops.layers import resize_to

Function = TypeVar("Function", bound=Callable[..., Any])

UNTRACEABLE: tuple[Callable[..., Any], ...] = (
    resolution.average,
    resolution.nearest,
    resolution.maximum,
    resize_to,
)
"""Functions that look at sizes, which FX cannot: a tracer takes them whole (its `autowrap_functions`)."""


def traceable(forward: Function) -> Function:
    """Return a `forward` without annotations: as text, in a graph of FX, TorchScript knows no such types."""
    forward.__annotations__ = {}
    return forward


class NotScriptable:
    """A layer that is still learning, or looks at values, which no graph shows."""

    def __prepare_scriptable__(self) -> NoReturn:
        _refuse("layer", self)


class Scriptable:
    """A layer that has to be traced, for TorchScript cannot read its code."""

    def __prepare_scriptable__(self) -> nn.Module:
        """Return what `torch.jit.script` compiles in its place."""
        return graph_of(self)  # type: ignore[bad-argument-type]


class _Tracer(fx.Tracer):
    """Leaves accelerated convolutions whole, for their scripts are PyTorch's convolutions."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ACCELERATED) or super().is_leaf_module(m, module_qualified_name)


def graph_of(network: nn.Module) -> fx.GraphModule:
    """Return a network's graph as a module that TorchScript compiles, with the same weights.

    Raises:
        NetworkError: it holds layers that look at values or are still learning.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, NotScriptable):
            _refuse(name, layer)
    graph = _Tracer(autowrap_functions=UNTRACEABLE).trace(network)
    for node in graph.nodes:
        node.type = None  # a text, of which TorchScript does not know what it means
    traced = fx.GraphModule(network, graph, type(network).__name__)
    for name, module in traced.named_modules():
        module.training = network.get_submodule(name).training
    return traced


def _refuse(name: str, layer: object) -> NoReturn:
    allowed = "a layer that neither learns nor looks at values, for TorchScript"
    remedy = "deploy what was learned, or use torch.jit.trace or torch.export"
    raise NetworkError(name, type(layer).__name__, allowed, remedy)
