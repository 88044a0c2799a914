"""An ONNX file as a module: its graph, node by node, in PyTorch's operators.

The module is recorded and compiled as every other is, so what the engine has no kernel for runs in PyTorch.
Operators that are not read at all are named when the file is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from regroup.engine.frontend.onnx.call import OPERATORS, Call, is_unknown
from regroup.engine.frontend.onnx.shapes import TYPES
from regroup.errors import EngineError, first_line, needed

for _name in ("elementwise", "layers", "reductions", "resize"):
    importlib.import_module(f"{__package__}.{_name}")

_MOST_BYTES = 1 << 31
"""ONNX's own limit of a file; larger weights lie beside it."""

_MOST_NUMBERS = 1 << 28
"""Numbers of one input: a gigabyte of float32."""

_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Input:
    """What an ONNX file says of an input.

    Attributes:
        name: of the input.
        shape: None where a size is not fixed.
        dtype: type of its numbers.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype

    def example(self) -> Tensor:
        """Return zeros of that shape, one image if their number is not fixed.

        Raises:
            EngineError: another size is not fixed.
        """
        first, *rest = self.shape or (1,)
        if any(size is None for size in rest):
            sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
            raise EngineError(f"the ONNX file leaves sizes of {self.name} open ({sizes}): give an example")
        return torch.zeros([1 if first is None else first, *(n or 0 for n in rest)], dtype=self.dtype)


class OnnxNode(nn.Module):
    """A node of an ONNX graph: a layer, with its own weights.

    Attributes:
        operator: its name.
        reads: the values that it is given, in order; "" for its own weights and what is left out.
        makes: the values that it computes.
    """

    def __init__(self, proto: Any, opset: int, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.operator, self.makes = proto.op_type, tuple(proto.output)
        self.reads = tuple("" if name in weights else name for name in proto.input)
        self._opset, self._attributes = opset, dict(_attributes(proto))
        self._fixed: dict[int, Tensor] = {}
        for position, name in enumerate(proto.input):
            if name not in weights:
                continue
            if isinstance(weights[name], nn.Parameter):
                self.register_parameter(f"input{position}", weights[name])  # type: ignore[bad-argument-type]
            else:
                self._fixed[position] = weights[name]

    def forward(self, *inputs: Tensor | None) -> Any:
        """Return its results for what it reads, in order."""
        own = [self._parameters.get(f"input{i}", self._fixed.get(i)) for i in range(len(self.reads))]
        given = tuple(one if one is not None else x for one, x in zip(own, inputs, strict=True))
        count = sum(bool(name) for name in self.makes)
        call = Call(self.operator, self._opset, self._attributes, given, count)
        # sizes, and what is computed of them, are numbers even where a recording has none
        unknown = any(x is not None and is_unknown(x) for x in given) and self.operator not in (
            "Shape",
            "Size",
        )
        with contextlib.nullcontext() if unknown else temporarily_clear_interpreter_stack():
            try:
                return OPERATORS[self.operator](call)
            except (IndexError, KeyError, TypeError, ValueError) as error:  # PyTorch's other errors say it
                raise EngineError(f"ONNX: {self.operator} cannot be computed: {first_line(error)}") from error

    def extra_repr(self) -> str:
        return f"{self.operator}: {', '.join(filter(None, self.reads))} -> {', '.join(self.makes)}"


class OnnxModel(nn.Module):
    """An ONNX graph as a module; it takes the file's inputs in order, or by name, and is in eval mode.

    Attributes:
        inputs: what the file says of them.
        outputs: their names; a single one is returned as it is, several as a tuple.
        about: the file's metadata, by name.
        nodes: its layers, in an order in which they can run.
    """

    nodes: nn.ModuleDict

    def __init__(self, proto: Any, where: str) -> None:
        super().__init__()
        graph = proto.graph
        _refuse_unknown(graph, where)
        opset = max((one.version for one in proto.opset_import if one.domain in _DOMAINS), default=1)
        weights = {one.name: _weight(one) for one in graph.initializer}
        kept = []
        for node in graph.node:  # some exporters write weights as nodes
            values = [one.t for one in node.attribute if one.name == "value"]
            if node.op_type == "Constant" and values:
                weights[node.output[0]] = _weight(values[0])
            else:
                kept.append(node)
        self.inputs = tuple(_input(one) for one in graph.input if one.name not in weights)
        self.outputs = tuple(one.name for one in graph.output)
        self.about = {one.key: one.value for one in proto.metadata_props}
        nodes = {f"{i}_{node.op_type}": OnnxNode(node, opset, weights) for i, node in enumerate(kept)}
        self.nodes = nn.ModuleDict(nodes)
        self._constants = {name: weights[name] for name in self.outputs if name in weights}
        self._dead = _last_reads(list(nodes.values()), self.outputs)
        self.eval()

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """Return the graph's outputs."""
        names = [one.name for one in self.inputs]
        env: dict[str, Any] = dict(zip(names, args, strict=False)) | kwargs
        if set(env) != set(names) or len(args) > len(names):
            raise EngineError(f"the ONNX file has inputs {', '.join(names)}; not {', '.join(env) or 'none'}")
        env |= self._constants
        for node, dead in zip(self.nodes.values(), self._dead, strict=True):
            assert isinstance(node, OnnxNode)
            results = node(*(env[name] if name else None for name in node.reads))
            results = (results,) if isinstance(results, Tensor) else results
            env.update({name: one for name, one in zip(node.makes, results, strict=False) if name})
            for name in dead:
                env.pop(name, None)
        found = tuple(env[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found

    def examples(self) -> list[Tensor]:
        """Return inputs of the sizes that the file has, of one image where it leaves their number open.

        Raises:
            EngineError: it leaves other sizes open.
        """
        return [one.example() for one in self.inputs]


def load(path: str | os.PathLike[str]) -> OnnxModel:
    """Read an ONNX file as a module of PyTorch's operators.

    Args:
        path: of the file; weights that lie beside it are read, too.

    Raises:
        MissingPackageError: `onnx` is not installed, too old or broken.
        EngineError: there is no such file, or it is none of ONNX's; it has operators
            that are not read, which it names.
    """
    onnx, inliner = needed("onnx", "onnx"), needed("onnx.inliner", "onnx")
    path = Path(path)
    if not path.is_file():
        raise EngineError(f"{path} is no file of ONNX's; regroup.create_model makes networks of a name")
    if path.stat().st_size > _MOST_BYTES:
        raise EngineError(
            f"{path} has {path.stat().st_size} bytes, more than the {_MOST_BYTES} of ONNX files"
        )
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto, full_check=False)
    except Exception as error:
        raise EngineError(f"{path} cannot be read as ONNX: {first_line(error)}") from error
    try:
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        return OnnxModel(proto, str(path))
    except EngineError:
        raise
    except Exception as error:  # the checker does not look at all of a file
        raise EngineError(
            f"{path} cannot be read as ONNX: {type(error).__name__}: {first_line(error)}"
        ) from error


def _refuse_unknown(graph: Any, where: str) -> None:
    unknown = Counter(
        node.op_type if node.domain in _DOMAINS else f"{node.domain}::{node.op_type}"
        for node in graph.node
        if node.domain not in _DOMAINS or node.op_type not in OPERATORS
    )
    if unknown:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        raise EngineError(f"{where} has operators that are not read: {names}")
    if graph.sparse_initializer:
        raise EngineError(f"{where} has sparse weights, which are not read")


def _input(proto: Any) -> Input:
    kind = proto.type.tensor_type
    if not proto.type.HasField("tensor_type") or kind.elem_type not in TYPES:
        raise EngineError(f"ONNX: input {proto.name} is no tensor of a type that PyTorch has")
    sizes = [
        one.dim_value if one.HasField("dim_value") and one.dim_value > 0 else None for one in kind.shape.dim
    ]
    if math.prod(size or 1 for size in sizes) > _MOST_NUMBERS:
        text = " x ".join("?" if size is None else str(size) for size in sizes)
        raise EngineError(
            f"ONNX: input {proto.name} is {text}, more than the {_MOST_NUMBERS} numbers of an input"
        )
    return Input(proto.name, tuple(sizes), TYPES[kind.elem_type])


def _weight(proto: Any) -> Tensor:
    """Return a weight; those with fractions are parameters: they are counted, and their changes are seen."""
    value = _tensor(proto)
    return nn.Parameter(value, requires_grad=False) if value.is_floating_point() else value


def _tensor(proto: Any) -> Tensor:
    from onnx import numpy_helper

    if proto.data_type not in TYPES:
        raise EngineError(f"ONNX: weight {proto.name} has type {proto.data_type}, which is not read")
    try:
        value = numpy_helper.to_array(proto)
    except (ValueError, TypeError) as error:  # sizes that its numbers do not fill
        raise EngineError(f"ONNX: weight {proto.name} cannot be read: {first_line(error)}") from error
    if proto.data_type == 16:
        return torch.from_numpy(value.astype("float32")).bfloat16()
    return torch.from_numpy(value.copy())


def _attributes(node: Any) -> Iterator[tuple[str, Any]]:
    from onnx import helper

    for one in node.attribute:
        value = helper.get_attribute_value(one)
        if isinstance(value, bytes):
            value = value.decode()
        elif type(value).__name__ == "TensorProto":
            value = _tensor(value)
        elif type(value).__name__ in ("GraphProto", "SparseTensorProto", "TypeProto"):
            raise EngineError(f"ONNX: {node.op_type} with attribute {one.name} is not read")
        yield one.name, list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _last_reads(nodes: Sequence[OnnxNode], outputs: Sequence[str]) -> list[tuple[str, ...]]:
    """Return for each node the values that nobody reads after it: their memory is given back."""
    last = {name: i for i, node in enumerate(nodes) for name in (*node.makes, *node.reads)}
    return [
        tuple(name for name in (*node.reads, *node.makes) if last[name] == i and name not in outputs)
        for i, node in enumerate(nodes)
    ]
