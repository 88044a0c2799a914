"""What a function that does an ONNX operator is given, and where such functions are registered.

>>> @reads("MadeUp")
... def _made_up(call):
...     return call[0] * call.number("factor", 2)
>>> OPERATORS.pop("MadeUp")(Call("MadeUp", 17, {"factor": 3}, (torch.ones(2),), 1))
tensor([3., 3.])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regroup.errors import EngineError


@dataclass(frozen=True)
class Call:
    """One node of an ONNX graph as it runs.

    Attributes:
        name: of the operator.
        opset: version of the operators' definitions (ai.onnx).
        attributes: by name; tensors are PyTorch's.
        inputs: None for those that are left out.
        outputs: how many results are wanted.
    """

    name: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[Tensor | None, ...]
    outputs: int

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, position: int) -> Tensor:
        """Return an input that must be there."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if value is None:
            raise EngineError(f"ONNX: {self.name} has no input {position}")
        return value

    def optional(self, position: int) -> Tensor | None:
        """Return an input, or None if it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def number(self, name: str, default: float) -> Any:
        """Return an attribute that is a number."""
        return self.attributes.get(name, default)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return an attribute that is 0 or 1."""
        return bool(self.attributes.get(name, default))

    def word(self, name: str, default: str) -> str:
        """Return an attribute that is a string."""
        return self.attributes.get(name, default)

    def integers(self, name: str, position: int | None = None) -> list[int] | None:
        """Return whole numbers that are an attribute or, since some opset, an input; None if neither."""
        found = self.attributes.get(name)
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
        value = None if position is None else self.optional(position)
        return None if value is None else ints(value)

    def refuse(self, what: str) -> EngineError:
        """Return the error for what is not read of an operator."""
        return EngineError(f"ONNX: {self.name} with {what} is not read")


def ints(value: Tensor) -> list[int]:
    """Return the numbers of a tensor."""
    found = value.tolist()
    return [int(n) for n in found] if isinstance(found, list) else [int(found)]


Function = Callable[[Call], "Tensor | Sequence[Tensor | None]"]


def is_unknown(x: Tensor) -> bool:
    """Tell whether a tensor has no numbers yet, because the network is being recorded."""
    return torch._is_functional_tensor(x) or getattr(x, "is_phantom", False)


OPERATORS: dict[str, Function] = {}
"""What does each operator of ONNX's (domain ai.onnx), by its name; tests sweep whatever is here."""


def reads(*names: str) -> Callable[[Function], Function]:
    """Register what does the operators called that."""

    def add(function: Function) -> Function:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return add


def like(value: float, x: Tensor) -> Tensor:
    """Return a number as a tensor of the type of `x`."""
    return torch.tensor(value, dtype=x.dtype)
