"""A whole network, ready to become object code; or why it cannot: there is no PyTorch to fall back to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from regroup.engine.frontend.capture import Capture
from regroup.engine.frontend.inputs import Inputs, of_example
from regroup.engine.frontend.recognise import record
from regroup.engine.graph import Graph, Value
from regroup.engine.passes import optimise
from regroup.engine.placing.schedule import Schedule, divide
from regroup.engine.running.bound import Bound, as_module
from regroup.engine.running.checks import check_example
from regroup.errors import EngineError
from regroup.kernels.machine.target import Target

_MOST_REASONS = 5
"""Named in an error."""


@dataclass(frozen=True)
class Port:
    """An input or output of one image.

    Attributes:
        name: a C identifier.
        shape: without the batch.
        buffer: its number in the schedule's views; None for an input that nothing reads.
        position: among the tensors of an example, or among the leaves of what the model returns.
    """

    name: str
    shape: tuple[int, ...]
    buffer: int | None
    position: int

    @property
    def floats(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


@dataclass(frozen=True)
class Network:
    """A network as steps of kernel problems, all of it.

    Attributes:
        schedule: the steps.
        inputs: in the order in which the model takes them.
        outputs: in the order in which the model returns them.
        target: the CPU that it is for.
    """

    schedule: Schedule
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    target: Target


def whole_network(model: Any, example: Tensor | Sequence[Any] | Mapping[str, Any], target: Target) -> Network:
    """Return what `model` computes for one image shaped like those of `example`, for a CPU.

    Raises:
        EngineError: `model` is in training mode, the example is none, the network cannot be recorded, or
            something in it has no kernel; says what.
    """
    module, inputs = as_module(model), of_example(example)
    check_example(module, inputs)
    called = module if inputs.is_plain else Bound(module, inputs)
    recorded = record(called, inputs.tensors, 1)
    optimise(recorded.graph)
    parts, reasons = divide(recorded.graph, target)
    if reasons:
        raise EngineError(_refusal(Counter(reasons.values())))
    if len(parts) != 1 or parts[0][1] is None:
        raise EngineError("the network computes nothing that could be object code")
    part, schedule = parts[0]
    assert schedule is not None
    ports = _inputs(inputs, recorded.graph, part.graph), _outputs(recorded, part.graph)
    return Network(schedule, *ports, target)


def _refusal(reasons: Counter[str]) -> str:
    listed = [
        f"{why} ({count} times)" if count > 1 else why for why, count in reasons.most_common(_MOST_REASONS)
    ]
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    return f"no object code: it has no PyTorch to leave operators to, and there is {'; '.join(listed)}{more}"


def _inputs(inputs: Inputs, graph: Graph, part: Graph) -> tuple[Port, ...]:
    buffers = {value: 2 + i for i, value in enumerate(part.inputs)}
    names = _identifiers([name for name, _ in inputs.named()])
    ports = []
    for i, (name, value) in enumerate(zip(names, graph.inputs, strict=True)):
        if not value.native:
            raise EngineError(f"no object code: {name} is no float32 tensor with a batch dimension")
        ports.append(Port(name, value.shape, buffers.get(value), i))
    return tuple(ports)


def _outputs(recorded: Capture, part: Graph) -> tuple[Port, ...]:
    """Return the results, each tensor once, under the first of its names."""
    results, graph = recorded.results, recorded.graph
    positions = range(len(results.leaves))
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(positions), results.structure))
    labels = {number: "output" + "".join(f".{_word(key)}" for key in path) for path, number in paths}
    buffers = {value: 2 + len(part.inputs) + i for i, value in enumerate(part.outputs)}
    found: dict[Value, tuple[str, int]] = {}
    for position, leaf in enumerate(results.leaves):
        label = labels[position]
        if leaf.kind == "value":
            continue
        if leaf.kind != "output":
            what = "an input itself" if leaf.kind == "input" else "a constant"
            raise EngineError(f"no object code: {label} is {what}, not a result of the network")
        value = graph.outputs[leaf.what]
        if value not in buffers:
            raise EngineError(f"no object code: {label} is an input, not a result of the network")
        found.setdefault(value, (label, position))
    names = _identifiers([label for label, _ in found.values()])
    return tuple(
        Port(name, value.shape, buffers[value], position)
        for name, (value, (_, position)) in zip(names, found.items(), strict=True)
    )


def _identifiers(names: Sequence[str]) -> list[str]:
    """Return names as C identifiers, all different, in upper case too."""
    taken: list[str] = []
    for name in names:
        plain = word = re.sub(r"\W", "_", name, flags=re.ASCII).lower()
        number = 2
        while word in taken:
            word, number = f"{plain}_{number}", number + 1
        taken.append(word)
    return taken


def _word(key: Any) -> str:
    return str(next((getattr(key, a) for a in ("key", "idx", "name") if hasattr(key, a)), key))
