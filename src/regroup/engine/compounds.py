"""Recognise what takes several operators of PyTorch, and leave out what does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from regroup.engine.graph import Graph, Lrn, Node, Ref, Torch, Value

_VIEWS = ("view", "view_copy", "reshape")
_SHAPES = (*_VIEWS, "unsqueeze_copy", "squeeze_copy.dim", "squeeze_copy.dims", "clone")


def recognise_lrn(graph: Graph) -> None:
    """Replace `x / (k + alpha * mean of x^2 over channels) ** beta` by `Lrn`; the rest dies unread."""
    producers = graph.producers()
    for node in graph.nodes:
        if _name(node) == "div.Tensor" and len(node.inputs) == 2 and len(node.inputs[0].shape) == 3:
            op = _lrn(node, producers)
            if op is not None:
                node.op, node.inputs = op, node.inputs[:1]
    graph.remove_dead()


def join_views(graph: Graph) -> None:
    """Let a change of shape after another one start from the tensor itself: shapes in between may be any."""
    producers = graph.producers()
    for node in graph.nodes:
        before = producers.get(node.inputs[0]) if _name(node) in _VIEWS else None
        if before is not None and _name(before) in _VIEWS and before.inputs[0].batched:
            node.inputs = before.inputs
    graph.remove_dead()


def leave_out_empty(graph: Graph) -> None:
    """Let concatenations pass over parts without numbers, which stand for features that a network has not."""
    for node in graph.nodes:
        if _name(node) != "cat":
            continue
        parts, *rest = node.op.args
        full = [part for part in parts if not _is_empty(part, node.inputs)]
        if len(full) < len(parts) and any(isinstance(part, Ref) for part in full):
            read = [node.inputs[part.index] for part in full if isinstance(part, Ref)]
            inputs = tuple(dict.fromkeys(read))
            places = {i: Ref(inputs.index(value)) for i, value in enumerate(node.inputs) if value in inputs}
            kept = [places[part.index] if isinstance(part, Ref) else part for part in full]
            node.op, node.inputs = replace(node.op, args=(kept, *rest)), inputs
    graph.remove_dead()


def _is_empty(part: object, inputs: tuple[Value, ...]) -> bool:
    if isinstance(part, Ref):
        return 0 in inputs[part.index].shape
    return isinstance(part, Tensor) and part.numel() == 0


def _lrn(node: Node, producers: dict[Value, Node]) -> Lrn | None:
    """Follow the divisor back to the squares of the dividend."""
    steps = _back(node.inputs[1], producers)
    found = [next(steps, None) for _ in range(6)]
    names = ("pow.Tensor_Scalar", "add.Tensor", "mul.Tensor", "avg_pool3d", "constant_pad_nd", "mul.Tensor")
    if any(step is None or _name(step) != name for step, name in zip(found, names, strict=True)):
        return None
    power, plus, times, mean, pad, square = (step for step in found if step is not None)
    size = mean.op.args[1][0]
    squares = square.inputs == node.inputs[:1] and square.op.args == (Ref(0), Ref(0))
    across = list(mean.op.args[1]) == [size, 1, 1] and list(mean.op.args[2]) == [1, 1, 1]
    padded = list(pad.op.args[1]) == [0, 0, 0, 0, size // 2, (size - 1) // 2]
    if not (squares and across and padded and len(mean.op.args) == 3):
        return None
    return Lrn(size, float(times.op.args[1]), float(power.op.args[1]), float(plus.op.args[1]))


def _back(value: Value, producers: dict[Value, Node]) -> Iterator[Node]:
    """Yield the node that makes `value`, then that of its only input, and so on, but for changes of shape."""
    while (node := producers.get(value)) is not None:
        if _name(node) not in _SHAPES:
            yield node
        if len(node.inputs) != 1:
            return
        value = node.inputs[0]


def _name(node: Node) -> str:
    return node.op.function.name().removeprefix("aten::") if isinstance(node.op, Torch) else ""
