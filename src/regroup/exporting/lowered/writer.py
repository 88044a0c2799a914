"""Nodes and constants of ONNX as they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

from regroup.engine.graph import Graph, Shape
from regroup.exporting.lowered import LoweredError

Write = Callable[["Writer", Any, list[str]], str]

_WRITES: dict[type, Write] = {}


def writes(op: type) -> Callable[[Write], Write]:
    """Register what writes an operator."""

    def add(function: Write) -> Write:
        _WRITES[op] = function
        return function

    return add


class Writer:
    """Nodes and constants as they are written.

    Attributes:
        node_now: what is being written.
        opset: version of the operators.
    """

    def __init__(self, graph: Graph, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.opset, self._count = opset, 0
        names = {graph.inputs[0]: "images"}
        for node in graph.nodes:
            self.node_now = node
            write = _WRITES.get(type(node.op))
            if write is None:
                raise LoweredError(f"ONNX has no nodes for {node.op.word}")
            names[node.output] = write(self, node.op, [names[value] for value in node.inputs])
        self.nodes.append(helper.make_node("Identity", [names[graph.outputs[0]]], ["scores"]))
        self._name_the_result()

    def _name_the_result(self) -> None:
        """Let the last node make "scores" itself, if nobody else reads what it makes."""
        (name,) = self.nodes[-1].input
        read = [node for node in self.nodes if name in node.input]
        made = [node for node in self.nodes if name in node.output]
        if len(read) == 1 and made:
            self.nodes.pop()
            made[0].output[0] = "scores"

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node, and return the name of its result."""
        self._count += 1
        about = "".join(c if c.isalnum() or c in "._" else "_" for c in self.node_now.output.name)
        name = f"{kind}_{self._count}" + (f"_{about}" if about else "")
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def constant(self, numbers: Tensor | np.ndarray | float | Sequence[int]) -> str:
        """Return the name of a constant: float32, but integers of a sequence, which are int64."""
        if isinstance(numbers, Tensor):
            numbers = numbers.detach().numpy()
        array = np.asarray(numbers)
        array = np.ascontiguousarray(array, np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    @property
    def shape(self) -> Shape:
        """Of the first input of the op that is being written, without the batch."""
        return self.node_now.inputs[0].shape

    @property
    def result(self) -> Shape:
        """Of its result."""
        return self.node_now.output.shape
