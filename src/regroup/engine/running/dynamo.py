"""`torch.compile(model, backend="regroup")`: PyTorch finds `backend` through the package's entry point.

Graphs that PyTorch captures under `torch.no_grad()` run as native code. What must have gradients, what is no
float32 on the CPU (so all calls under autocast), and whatever else the engine refuses, runs as PyTorch would
run it; `reports` says why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from regroup.engine.running.bound import as_module
from regroup.engine.running.compiled import Compiled
from regroup.errors import EngineError

_MOST_SHAPES = 16
"""Shapes and weights for which a graph has code at a time; the oldest goes."""


@dataclass(eq=False)
class Report:
    """What became of a graph that `torch.compile` gave to the backend.

    Attributes:
        operators: how many calls it has.
        calls: a line for each kind of call that came: how much of it is native, or why it runs in PyTorch.
    """

    operators: int
    calls: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"graph of {self.operators} calls",
            *(f"  {shape}: {what}" for shape, what in self.calls.items()),
        ]
        return "\n".join(lines if self.calls else [*lines, "  not called yet"])


_reports: deque[Report] = deque(maxlen=100)


def reports() -> list[Report]:
    """Return what became of the last graphs that PyTorch captured, in order; print them to read why."""
    return list(_reports)


def backend(graph: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
    """Return what computes `graph`, as PyTorch asks of a backend. It never fails where PyTorch would not.

    Args:
        graph: captured by TorchDynamo; weights are among its inputs.
        examples: what it was captured with.
    """
    report = Report(sum(node.op.startswith("call") for node in graph.graph.nodes))
    _reports.append(report)
    weights = {i for i, example in enumerate(examples) if _is_weight(example)}
    networks: dict[tuple, tuple[_Bound, Compiled | None]] = {}

    def run(*args: Any) -> Any:
        inputs = [a for i, a in enumerate(args) if i not in weights]
        key = tuple(map(_kind, inputs))
        reason = _refusal(args)
        if not reason:
            if key not in networks or not networks[key][0].holds(args):
                for oldest in list(networks)[: 1 - _MOST_SHAPES]:
                    networks.pop(oldest, None)
                networks[key] = _compile(graph, args, weights, inputs, report, key)
            compiled = networks[key][1]
            if compiled is not None:
                return compiled(*inputs)
        else:
            report.calls[_words(key)] = f"in PyTorch: {reason}"
        return graph(*args)

    return run


def _is_weight(example: object) -> bool:
    """Tell whether an input is a parameter or buffer, which PyTorch marks so."""
    if isinstance(example, nn.Parameter):
        return True
    return isinstance(example, Tensor) and getattr(example, "_dynamo_static_input_type", None) is not None


def _kind(value: object) -> object:
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value


def _words(key: tuple) -> str:
    return ", ".join(str(list(k[0])) if isinstance(k, tuple) else repr(k) for k in key) or "no inputs"


def _refusal(args: Sequence[Any]) -> str:
    """Return why PyTorch must run a call, whatever the graph is; "" if it need not."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    if torch.is_grad_enabled() and any(a.requires_grad for a in tensors):
        return "gradients are wanted: call it under torch.no_grad()"
    if torch.is_autocast_enabled("cpu"):
        return f"autocast wants {torch.get_autocast_dtype('cpu')}"
    if torch.get_default_dtype() != torch.float32:
        return f"the default type is {torch.get_default_dtype()}"
    for a in tensors:
        if a.device.type != "cpu" or a.layout != torch.strided:
            return f"a tensor is {a.layout} on {a.device}"
    return ""


def _compile(
    graph: fx.GraphModule,
    args: Sequence[Any],
    weights: set[int],
    inputs: list[Any],
    report: Report,
    key: tuple,
) -> tuple[_Bound, Compiled | None]:
    bound = _Bound(graph, args, weights)
    try:
        compiled = Compiled(bound, inputs, strict=None)  # `reports` tells
    except EngineError as error:  # not float32, no input at all
        report.calls[_words(key)] = f"in PyTorch: {error}"
        return bound, None
    report.calls[_words(key)] = compiled.summary()
    return bound, compiled


class _Bound(nn.Module):
    """A captured graph with its weights in place, so that only the inputs are left."""

    def __init__(self, graph: fx.GraphModule, args: Sequence[Any], weights: set[int]) -> None:
        super().__init__()
        self._graph = as_module(graph).forward  # bound: its own constants are watched below
        self._args = [a if i in weights else None for i, a in enumerate(args)]
        self._inputs = [i for i in range(len(args)) if i not in weights]
        for i in sorted(weights):
            self.register_buffer(f"weight_{i}", args[i].detach())
        for name, constant in graph.named_buffers():
            self.register_buffer(f"constant_{name.replace('.', '_')}", constant)
        self.eval()

    def holds(self, args: Sequence[Any]) -> bool:
        """Tell whether `args` has the weights that are bound here."""
        return all(a is b for a, b in zip(args, self._args, strict=True) if b is not None)

    def forward(self, *inputs: Any) -> Any:
        args = list(self._args)
        for i, x in zip(self._inputs, inputs, strict=True):
            args[i] = x
        return self._graph(*args)
