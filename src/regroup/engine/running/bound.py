"""Whatever can be called, as a module: functions, models compiled by PyTorch, a call of one form.

>>> import torch
>>> layer = nn.Linear(2, 3)
>>> function = as_module(lambda x: layer(x).relu())
>>> function.reached == [layer]
True
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from regroup.engine.frontend.functions import names_of
from regroup.engine.frontend.inputs import Inputs
from regroup.errors import EngineError


class Function(nn.Module):
    """A function, and the modules and tensors that it reaches, so that their changes are seen.

    Attributes:
        function: any callable that is no module.
        reached: modules and tensors in its closure, its defaults and bound arguments, its globals.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.reached = function, list(_reached(function))
        super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def is_training(self) -> bool:
        """Whether a module that it calls is in training mode."""
        return any(isinstance(one, nn.Module) and is_training(one) for one in self.reached)


class Bound(nn.Module):
    """A model that is called with tensors only; all else is as in one call of it."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model, self.inputs = model, replace(inputs, tensors=())
        self.training = False

    def forward(self, *tensors: Tensor) -> Any:
        args, kwargs = self.inputs.put_back(tensors)
        return self.model(*args, **kwargs)


def as_module(model: Any) -> nn.Module:
    """Return a model as a module.

    Raises:
        EngineError: it cannot be called.
    """
    if isinstance(model, torch.export.ExportedProgram):
        raise EngineError("the model is an ExportedProgram, which cannot be called: compile its .module()")
    if isinstance(model, nn.Module):
        for graph in (one for one in model.modules() if isinstance(one, fx.GraphModule)):
            _ = graph.code  # a lazy one writes it now, not in its first call
        inner = model._modules.get("_orig_mod") if type(model).__name__ == "OptimizedModule" else None
        return model if inner is None else inner
    if not callable(model) or isinstance(model, type):
        raise EngineError(f"the model is {type(model).__name__}; it must be a torch.nn.Module or a function")
    return Function(getattr(model, "_torchdynamo_orig_callable", model))


def is_training(model: nn.Module) -> bool:
    """Tell whether a model is in training mode; of an exported one its graph says what it does."""
    if isinstance(model, Function):
        return model.is_training
    return not _is_exported(model) and bool(getattr(model, "training", False))


def saved_by(model: nn.Module) -> str:
    """Return how PyTorch saves a model that cannot be pickled; "" if it can."""
    if isinstance(model, torch.jit.ScriptModule):
        return "torch.jit.save"
    return "torch.export.save" if _is_exported(model) else ""


def _is_exported(model: nn.Module) -> bool:
    return any(kind.__module__.startswith("torch.export") for kind in type(model).__mro__)


def does_not_fit(model: nn.Module, inputs: Inputs) -> str:
    """Return why a model does not take such arguments, as far as its signature tells; "" if it does."""
    args, kwargs = inputs.put_back(inputs.tensors)
    called = model.function if isinstance(model, Function) else model.forward
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""


def _reached(function: Any) -> Iterator[object]:
    """Yield the modules and tensors that a function holds."""
    for value in _held(function):
        if isinstance(value, (nn.Module, Tensor)):
            yield value
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            yield from _reached(value)
        elif isinstance(value, (list, tuple)):
            yield from (one for one in value if isinstance(one, (nn.Module, Tensor)))


def _held(function: Any) -> Iterator[object]:
    if isinstance(function, functools.partial):
        yield from (function.func, *function.args, *function.keywords.values())
    elif isinstance(function, types.MethodType):
        yield from (function.__self__, function.__func__)
    elif isinstance(function, types.FunctionType):
        yield from (cell.cell_contents for cell in function.__closure__ or () if _is_full(cell))
        yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        names = names_of(function.__code__)
        found = (function.__globals__[name] for name in names if name in function.__globals__)
        yield from (one for one in found if isinstance(one, (nn.Module, Tensor)))
    else:
        yield from vars(function).values() if hasattr(function, "__dict__") else ()


def _is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not assigned yet
        return False
