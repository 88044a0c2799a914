"""Count parameters and MACs by running a module, not by knowing it.

>>> count(nn.Conv2d(8, 8, 3, padding=1, groups=4), (5, 5))
Cost(parameters=152, macs=3600)

Every operator that runs is seen, whoever calls it: a module, a function, a scripted or compiled part, the
backward pass. `regroup.ops.formulas` says what its MACs are; what has no formula is named, never passed over.
This is the only counter: `profile`, `compare`, the strategies' costs and the published figures all use it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from regroup.ops.formulas import macs_of
from regroup.ops.layers import CONVOLUTIONS
from regroup.ops.shapes import result_of
from regroup.spec import Cost, Extent


class UncountedWarning(UserWarning):
    """Operators ran whose MACs are not known, so that a count is too small."""


class Counter:
    """Count the MACs of all that runs inside a `with`.

    >>> with Counter() as counter:
    ...     y = torch.ones(2, 3) @ torch.ones(3, 5)
    >>> counter.macs, counter.uncounted
    (30, set())

    What leaves PyTorch (`Tensor.numpy` and its like) is named as uncounted, for what is done with it cannot
    be seen. Nor can a C++ function that is bound to Python without being registered as an operator, and
    `torch.linalg.vecdot` inside of TorchScript.
    """

    def __init__(self) -> None:
        self.macs = 0
        """MACs so far."""
        self.uncounted: set[str] = set()
        """Names of the operators that have no formula."""
        self._around = contextlib.ExitStack()

    def __enter__(self) -> Self:
        operators = _Operators(self._saw)
        for context in (_Functions(self.uncounted, operators), _nothing_fused(), operators):
            self._around.enter_context(context)
        return self

    def __exit__(self, *_: object) -> None:
        self._around.close()

    def _saw(self, func: Any, args: tuple, kwargs: dict, out: object) -> None:
        macs = macs_of(func, args, kwargs, out)
        if macs is None:
            self.uncounted.add(str(getattr(func, "overloadpacket", func)))
        self.add(func, args, kwargs, out, macs or 0)

    def add(self, func: Any, args: tuple, kwargs: dict, out: object, macs: int) -> None:
        """Add one operator that ran."""
        self.macs += macs


class _Operators(TorchDispatchMode):
    """Call `saw` after every operator, those that are made of others taken apart."""

    supports_higher_order_operators = True

    def __init__(self, saw: Callable[[Any, tuple, dict, object], None]) -> None:
        super().__init__()
        self._saw, self._whole = saw, False

    def whole(self, operator: Any, function: Callable[..., object], args: tuple, kwargs: dict) -> object:
        """Call a function, and see it as one operator."""
        self._whole = True
        try:
            out = function(*args, **kwargs)
        finally:
            self._whole = False
        self._saw(operator, args, kwargs, out)
        return out

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._whole:
            return func(*args, **kwargs)
        is_plain = isinstance(func, torch._ops.OpOverload)
        if is_plain and func.namespace in _BESIDES:
            return func(*args, **kwargs)
        if is_plain and _is_composite(func):  # in inference mode they come here in one piece
            with self:
                return func.decompose(*args, **kwargs)
        out = result_of(func, args, kwargs)
        self._saw(func, args, kwargs, out)
        return out


_BESIDES = {"prim", "profiler", "c10d", "_c10d_functional"}
"""Namespaces of operators that ask for a tensor's device or layout, take notes, or send tensors elsewhere."""

_LEAVES = {
    getattr(torch.Tensor, name): f"Tensor.{name}" for name in ("numpy", "__array__", "__dlpack__", "data_ptr")
}


_WHOLE = {torch.linalg.vecdot: torch.ops.aten.linalg_vecdot.default}
"""Functions whose products are one operator, and their sums another, where operators are seen."""


class _Functions(TorchFunctionMode):
    """Name the ways by which tensors leave PyTorch, and see sums of products that no operator tells."""

    def __init__(self, names: set[str], operators: _Operators) -> None:
        super().__init__()
        self._names, self._operators = names, operators

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _LEAVES:
            self._names.add(_LEAVES[func])
        if func in _WHOLE:
            return self._operators.whole(_WHOLE[func], func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class _Eager:
    """Compiled functions run as written while any thread is in here.

    What PyTorch has for it is one value for all threads, which each puts back as it found it: of two that
    overlap, the second would leave all that is compiled in the process switched off, without a word.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._stance: contextlib.AbstractContextManager | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._stance = torch.compiler.set_stance("force_eager")
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._stance is not None:
                stance, self._stance = self._stance, None
                stance.__exit__(None, None, None)


_EAGER = _Eager()


@contextlib.contextmanager
def _nothing_fused() -> Iterator[None]:
    """Let compiled and scripted parts run operator by operator."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.jit.optimized_execution(False))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and it takes seconds to import
            stack.enter_context(_EAGER)
        yield


@functools.lru_cache(maxsize=10_000)
def _is_composite(func: torch._ops.OpOverload) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def count(module: nn.Module, size: Extent, in_channels: int | None = None) -> Cost:
    """Return the parameters of a module and the MACs it executes on one image of `size`.

    Runs a copy of the module in eval mode on shapes alone (the meta device): no time, no memory. What asks
    for numbers, such as a detector for its boxes, is run on an image of zeros.

    Args:
        module: takes (1, in_channels, *size).
        size: of the image, (height, width); a number for each dimension.
        in_channels: of the input; by default those of the first convolution or linear layer.

    Warns:
        UncountedWarning: operators ran that have no formula; it names them.
    """
    if in_channels is None:
        in_channels = _first_channels(module)
    parameters = sum(p.numel() for p in module.parameters())
    shadow = copy.deepcopy(module).to("meta", torch.float32).eval()
    try:
        return Cost(parameters, count_macs(shadow, torch.empty(1, in_channels, *size, device="meta")))
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error).lower():
            raise
    plain = copy.deepcopy(module).to("cpu", torch.float32).eval()
    return Cost(parameters, count_macs(plain, torch.zeros(1, in_channels, *size)))


def count_macs(module: nn.Module, *inputs: Tensor) -> int:
    """Return the MACs of one forward pass on these inputs.

    Warns:
        UncountedWarning: operators ran that have no formula; it names them.
    """
    with Counter() as counter, torch.no_grad():
        module(*inputs)
    if counter.uncounted:
        names = ", ".join(sorted(counter.uncounted))
        message = f"without a formula, counted as 0 MACs: {names}; register_flop_formula of PyTorch adds one"
        warnings.warn(message, UncountedWarning, stacklevel=2)
    return counter.macs


def _first_channels(module: nn.Module) -> int:
    for layer in module.modules():
        if isinstance(layer, CONVOLUTIONS):
            return layer.in_channels
        if isinstance(layer, nn.Linear):
            return layer.in_features
    raise ValueError("the module has no convolution or linear layer: give in_channels")
