"""ONNX's own backend tests as cases: a model, inputs and outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from torch import Tensor

from regroup.engine.frontend.onnx.call import OPERATORS
from regroup.engine.frontend.onnx.model import OnnxModel

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class Case:
    """One test: a model, and what comes out for what goes in; ONNX says how exactly."""

    name: str
    proto: Any
    sets: tuple[tuple[list[Any], list[Any]], ...]
    relative: float
    absolute: float

    @property
    def operators(self) -> set[str]:
        """The operators that it uses, with their domain where it is not ONNX's."""
        return {"::".join(filter(None, (node.domain, node.op_type))) for node in self.proto.graph.node}

    def model(self) -> OnnxModel:
        """Return it as a module."""
        return OnnxModel(self.proto, self.name)

    def wrong(self, result: Any, wanted: list[Any]) -> str:
        """Return what is wrong with a result; "" if it is what ONNX wants."""
        results = result if isinstance(result, tuple) else (result,)
        for one, want in zip(results, wanted, strict=True):
            if tuple(one.shape) != want.shape or str(one.dtype).removeprefix("torch.") != want.dtype.name:
                return f"{tuple(one.shape)} {one.dtype} instead of {want.shape} {want.dtype}"
            got, want = (x.double().numpy() for x in (one, tensor(want)))
            if not np.allclose(got, want, self.relative, self.absolute, equal_nan=True):
                return f"{got.ravel()[:6]} instead of {want.ravel()[:6]}"
        return ""


@cache
def cases(kind: str) -> tuple[Case, ...]:
    """Return those of a kind whose operators are all read, and whose inputs and outputs are tensors."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of numbers that are cast
        every = load_model_tests(kind=kind)
    for one in every:
        proto = one.model or onnx.load(Path(one.model_dir) / "model.onnx")
        case = Case(one.name, proto, tuple(_sets(one)), one.rtol, one.atol)
        plain = all(isinstance(a, np.ndarray) for pair in case.sets for side in pair for a in side)
        if case.operators <= set(OPERATORS) and plain:
            found.append(case)
    return tuple(found)


def _sets(one: Any) -> Iterator[tuple[list[Any], list[Any]]]:
    if one.data_sets is not None:
        yield from one.data_sets
        return
    for folder in sorted(Path(one.model_dir).glob("test_data_set_*")):
        yield tuple(
            [_read(p) for p in sorted(folder.glob(f"{side}_*.pb"), key=_number)]
            for side in ("input", "output")
        )


def _number(path: Path) -> int:
    return int(path.stem.split("_")[1])


def _read(path: Path) -> Any:
    proto = onnx.TensorProto()
    proto.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(proto)


def tensor(array: Any) -> Tensor:
    """Return an array of NumPy's as a tensor; its bfloat16 is not one of NumPy's own types."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.array(array))
