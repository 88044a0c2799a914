"""Record which operators a network runs on what: functional, below autograd, with names for parameters.

The network runs on the example's numbers, once as it infers and once as it trains, below PyTorch's
functionalization, so that views and in-place operators arrive as plain functions. What is left is a list:
each operator, its arguments, what it returned, and the module that called it. The model itself is not
touched: a copy runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from regroup.errors import ConversionError, first_line

_NUMBERS = frozenset({"numpy", "__array__", "tolist", "data_ptr", "__dlpack__", "apply_", "map_"})
"""Methods that look at a tensor's memory without an operator."""


_aten = torch.ops.aten
_INDEXES = (_aten.index.Tensor, _aten._unsafe_index.Tensor)
_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


@dataclass(eq=False)
class Value:
    """A tensor of the recording.

    Attributes:
        shape: its sizes.
        name: of the parameter or buffer that it is.
        is_data: whether it depends on what the network is given.
        constant: its numbers, of tensors that depend on neither input nor parameters, and of integer buffers.
        stride: its strides.
        itemsize: bytes of a number.
    """

    shape: tuple[int, ...]
    name: str = ""
    is_data: bool = False
    constant: Tensor | None = None
    stride: tuple[int, ...] = ()
    itemsize: int = 0


@dataclass(eq=False)
class Op:
    """One call of an operator; its tensors are `Value`s.

    Attributes:
        func: the operator.
        args: by position.
        kwargs: by name.
        out: what it returned.
        module: name of the module that called it.
        call: number of that module's call; the same for all operators of one.
    """

    func: Any
    args: tuple
    kwargs: dict[str, Any]
    out: Any
    module: str
    call: int

    @property
    def name(self) -> str:
        """The operator's name without its overload: "convolution"."""
        return self.func._schema.name.split("::")[1]

    @property
    def values(self) -> list[Value]:
        """The tensors it is given."""
        return [v for v in tree_leaves((self.args, self.kwargs)) if isinstance(v, Value)]

    @property
    def outputs(self) -> list[Value]:
        """The tensors it returns."""
        return [v for v in tree_leaves(self.out) if isinstance(v, Value)]

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return self.module or "the network's own forward"


@dataclass(eq=False)
class Trace:
    """One run of a network."""

    ops: list[Op] = field(default_factory=list)
    parameters: dict[str, Value] = field(default_factory=dict)
    """Parameters and buffers by their first names."""
    outputs: list[Value] = field(default_factory=list)
    looked_at: list[Value] = field(default_factory=list)
    """Those whose numbers Python code has read."""


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self._values: Any = WeakTensorKeyDictionary()
        self.stack: list[tuple[str, int]] = [("", 0)]
        self.calls = 0
        self.owners: dict[int, str] = {}
        """Addresses of the memory of parameters and buffers, and their names."""

    def declare(self, tensor: Tensor, name: str = "", is_data: bool = False) -> Value:
        whole = not tensor.is_floating_point() and not tensor.is_complex() and not is_data
        return self._note(tensor, name, is_data, tensor.detach().clone() if whole else None)

    def value_of(self, tensor: Tensor) -> Value:
        if tensor not in self._values:  # an attribute that is no buffer, or a number made a tensor
            name = self.owners.get(tensor.untyped_storage().data_ptr())
            if name:
                raise ConversionError(f"{self.stack[-1][0] or 'forward'} reads {name} past its name")
            self._note(tensor, "", False, tensor.detach().clone())
        return self._values[tensor]

    def _note(self, tensor: Tensor, name: str, is_data: bool, constant: Tensor | None) -> Value:
        layout = tensor.stride(), tensor.element_size()
        self._values[tensor] = value = Value(tuple(tensor.shape), name, is_data, constant, *layout)
        return value

    def refuse_data(self, values: Iterable[object]) -> None:
        """Raise an error if one of these depends on the network's input, and Python on its numbers."""
        if any(isinstance(v, Value) and v.is_data for v in values):
            raise ConversionError(f"{self.stack[-1][0] or 'forward'} depends on the numbers in a tensor")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        given = tree_map_only(Tensor, self.value_of, (args, kwargs))
        if set(func.tags) & _DEPENDENT:  # of an index, if it is one of booleans
            self.refuse_data(map(self.value_of, _masks(args[1:])) if func in _INDEXES else tree_leaves(given))
        result = func(*args, **kwargs)
        values = [v for v in tree_leaves(given) if isinstance(v, Value)]
        is_data = any(v.is_data for v in values)
        known = all(v.constant is not None for v in values)

        def new(tensor: Tensor) -> Value:
            return self._note(tensor, "", is_data, tensor.detach() if known else None)

        out = tree_map_only(Tensor, new, result)
        self.trace.ops.append(Op(func, given[0], given[1], out, *self.stack[-1]))
        return result


def _masks(arguments: tuple) -> list[Tensor]:
    return [t for t in tree_leaves(arguments) if isinstance(t, Tensor) and t.dtype == torch.bool]


class _Looks(TorchFunctionMode):
    """Notes whose numbers Python code reads without an operator."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in _NUMBERS and args and isinstance(args[0], Tensor):
            inner = args[0]
            if torch._is_functional_tensor(inner):
                torch._sync(inner)
                inner = torch._from_functional_tensor(inner)
            value = self._recorder.value_of(inner)
            self._recorder.refuse_data([value])
            self._recorder.trace.looked_at.append(value)
        return func(*args, **(kwargs or {}))


def trace(model: nn.Module, inputs: Sequence[Any], training: bool) -> Trace:
    """Run a copy of a model and return what it did.

    Args:
        model: is left as it was.
        inputs: what it is called with; single images are doubled for training, where norms need two.
        training: whether as it trains or as it infers.

    Raises:
        ConversionError: the model cannot be copied or run, or its flow depends on numbers in a tensor.
    """
    try:
        copied = copy.deepcopy(model).train(training)
    except Exception as error:
        raise ConversionError(f"the model cannot be copied: {first_line(error)}") from error
    if training:
        inputs = _doubled(inputs)
    recorder = _Recorder()
    _watch(copied, recorder)
    state = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
    recorder.owners = _owners(state)
    state = {name: t.detach().clone() for name, t in state.items()}
    try:
        with torch.random.fork_rng(devices=[]), _plainly():
            recorder.trace.parameters = {n: recorder.declare(t, n) for n, t in state.items()}
            inputs = tree_map_only(Tensor, lambda t: t.detach().clone(), tuple(inputs))
            for tensor in tree_leaves(inputs):
                if isinstance(tensor, Tensor):
                    recorder.declare(tensor, is_data=True)
            outputs = _run(copied, recorder, state, inputs)
            recorder.trace.outputs = [recorder.value_of(t) for t in outputs]
    except Exception as error:
        raise ConversionError(f"the model cannot be traced: {first_line(error)}") from error
    return recorder.trace


def _owners(state: dict[str, Tensor]) -> dict[int, str]:
    """Return which tensor has which memory; two that share theirs could not be reordered one by one."""
    owners: dict[int, str] = {}
    for name, tensor in state.items():
        address = tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0
        if address and owners.setdefault(address, name) != name:
            raise ConversionError(
                f"the model's {owners[address]} and {name} share memory, as different tensors"
            )
    return owners


def _run(model: nn.Module, recorder: _Recorder, state: dict[str, Tensor], inputs: tuple) -> list[Tensor]:
    def call(state: dict[str, Tensor], inputs: tuple) -> list[Tensor]:
        with _Looks(recorder):
            result = torch.func.functional_call(model, state, inputs)
        return tensors_in(result)

    with recorder:
        return torch.func.functionalize(call, remove="mutations")(state, inputs)


def tensors_in(result: object) -> list[Tensor]:
    """Return the tensors of a result, those of objects such as torchvision's and dataclasses too."""
    leaves = tree_leaves(result)
    more = [list(vars(leaf).values()) for leaf in leaves if hasattr(leaf, "__dataclass_fields__")]
    return [t for t in tree_leaves([leaves, more]) if isinstance(t, Tensor)]


class _plainly:
    """No gradients, no inference mode (operators would not come decomposed), no autocast."""

    def __enter__(self) -> None:
        self._contexts = (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
        )
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, *error: object) -> None:
        for context in reversed(self._contexts):
            context.__exit__(None, None, None)


def _watch(model: nn.Module, recorder: _Recorder) -> None:
    """Let the recorder know which module runs."""

    def entering(name: str) -> Callable:
        def hook(*_: object) -> None:
            recorder.calls += 1
            recorder.stack.append((name, recorder.calls))

        return hook

    def leaving(*_: object) -> None:
        recorder.stack.pop()

    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(entering(name), prepend=True)
            module.register_forward_hook(leaving)


def _doubled(inputs: Sequence[Any]) -> tuple[Any, ...]:
    tensors = [t for t in tree_leaves(tuple(inputs)) if isinstance(t, Tensor)]
    if not all(t.ndim and len(t) == 1 for t in tensors):
        return tuple(inputs)
    return tree_map_only(Tensor, lambda t: torch.cat([t, t]), tuple(inputs))
