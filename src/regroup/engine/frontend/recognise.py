"""A model of PyTorch's -> a graph of operators; what is not recognised stays with PyTorch, and says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from regroup.engine.frontend.arrangements import arrange
from regroup.engine.frontend.capture import Capture, capture
from regroup.engine.frontend.tidy import join_views, leave_out_empty
from regroup.engine.graph import Graph, Node, Torch, Value
from regroup.engine.operators import OPERATORS
from regroup.engine.recognition import SEVERAL, Call, Found


def record(model: Callable, examples: Sequence[Tensor], batch: int) -> Capture:
    """Record `model` at a batch size, with all operators recognised that the engine knows.

    Raises:
        EngineError: it cannot be recorded.
    """
    recorded = capture(model, examples, batch)
    recognise(recorded.graph, batch, recorded.macs)
    return recorded


def recognise(graph: Graph, batch: int, macs: dict[Node, int] | None = None) -> None:
    """Replace every node that is understood; the others say why not.

    Args:
        graph: is changed.
        batch: images that it was recorded with.
        macs: of its nodes; follow them.
    """
    arrange(graph, batch, macs)
    for recognise_one in SEVERAL:
        recognise_one(graph)
    join_views(graph)
    leave_out_empty(graph)
    used = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)
    graph.nodes = [one for node in graph.nodes for one in _recognised(node, used)]
    graph.remove_dead()


def _recognised(node: Node, used: set[Value]) -> list[Node]:
    """Return the nodes that do what `node` does, only itself if it is not recognised."""
    if not isinstance(node.op, Torch):
        return [node]
    found = _found(node, used)
    if isinstance(found, str):
        node.op = replace(node.op, why=found)
        return [node]
    wanted = range(len(node.inputs)) if found.inputs is None else [ref.index for ref in found.inputs]
    values, nodes = tuple(node.inputs[i] for i in wanted), []
    for op in (found.op, *found.then):
        shape = op.shape(*(value.shape for value in values))
        assert shape is not None
        nodes.append(Node(op, values, (node.output.like(shape),)))
        values = nodes[-1].outputs
    nodes[-1].outputs = (node.output,)
    return nodes


def _found(node: Node, used: set[Value]) -> Found | str:
    """Return what a node is, or why the engine has no kernel for it."""
    name = node.op.function.name()
    recognisers = OPERATORS.get(name, ()) if used.isdisjoint(node.outputs[1:]) else ()
    if not recognisers:
        return f"no kernel for {name}"
    if not all(v.native and len(v.shape) in (1, 3) for v in (*node.inputs, node.output)):
        return f"{name} on something else than float32 images or vectors"
    if any(v.per != node.output.per for v in node.inputs):
        return f"{name} on different numbers of images"
    call = Call.of(node.op, node.inputs, node.output.shape)
    for recogniser in recognisers:
        found = recogniser(call)
        if found is not None:
            return found if isinstance(found, Found) else Found(found)
    return f"no kernel for {name} with these arguments"
