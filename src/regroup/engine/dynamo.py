"""`torch.compile(model, backend="regroup")`: PyTorch finds `backend` through the package's entry point.

Graphs that PyTorch captures under `torch.no_grad()` run as native code. What must have gradients, and what is
no float32 on the CPU, runs as PyTorch would run it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from regroup.engine.compiled import Compiled
from regroup.errors import EngineError


def backend(graph: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
    """Return what computes `graph`, as PyTorch asks of a backend.

    Args:
        graph: captured by TorchDynamo; weights are among its inputs.
        examples: what it was captured with.
    """
    if torch.is_grad_enabled() and any(isinstance(e, Tensor) and e.requires_grad for e in examples):
        return graph.forward
    weights = [i for i, e in enumerate(examples) if _is_weight(e)]
    networks: dict[tuple, tuple[_Bound, Compiled | None]] = {}

    def run(*args: Any) -> Any:
        inputs = [a for i, a in enumerate(args) if isinstance(a, Tensor) and i not in weights]
        numbers = tuple(a for a in args if not isinstance(a, Tensor))
        key = (*numbers, *(tuple(x.shape) for x in inputs))
        if key not in networks or not networks[key][0].holds(args):
            networks[key] = _compile(graph, args, weights, inputs)
        compiled = networks[key][1]
        return graph(*args) if compiled is None else compiled(*inputs)

    return run


def _is_weight(example: object) -> bool:
    """Tell whether an input is a parameter or buffer, which PyTorch marks so."""
    if isinstance(example, nn.Parameter):
        return True
    return isinstance(example, Tensor) and getattr(example, "_dynamo_static_input_type", None) is not None


def _compile(
    graph: fx.GraphModule, args: Sequence[Any], weights: list[int], inputs: list[Tensor]
) -> tuple[_Bound, Compiled | None]:
    bound = _Bound(graph, args, weights)
    try:
        return bound, Compiled(bound, inputs)
    except EngineError:  # not float32, not on the CPU, no input at all
        return bound, None


class _Bound(nn.Module):
    """A captured graph with its weights in place, so that only the inputs are left."""

    def __init__(self, graph: fx.GraphModule, args: Sequence[Any], weights: list[int]) -> None:
        super().__init__()
        self._graph = graph.forward  # the bound method: the graph's own constants are watched below
        self._args = [None if isinstance(a, Tensor) and i not in weights else a for i, a in enumerate(args)]
        self._inputs = [i for i, a in enumerate(args) if isinstance(a, Tensor) and i not in weights]
        for i in weights:
            self.register_buffer(f"weight_{i}", args[i].detach())
        for name, constant in graph.named_buffers():
            self.register_buffer(name.replace(".", "_"), constant)
        self.eval()

    def holds(self, args: Sequence[Any]) -> bool:
        """Tell whether `args` has the weights that are bound here."""
        return all(a is b for a, b in zip(args, self._args, strict=True) if isinstance(b, Tensor))

    def forward(self, *inputs: Tensor) -> Any:
        args = list(self._args)
        for i, x in zip(self._inputs, inputs, strict=True):
            args[i] = x
        return self._graph(*args)
