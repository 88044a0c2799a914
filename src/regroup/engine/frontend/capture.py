"""Record a model as a graph of PyTorch operators, in a fraction of a second.

The model runs once on tensors that have shapes but no numbers, below PyTorch's functionalization, so that
in-place operators and views arrive as plain functions. This is what torch.export does, without its guards,
pickling and checks of every step, which take thirty times as long. Whatever depends on a tensor's numbers
(`if x.sum() > 0`) cannot be recorded and is reported.

What depends on weights alone is computed while recording, once.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import clear_frames
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module
from torch.overrides import TorchFunctionMode

from regroup.engine.frontend.equality import holders_of
from regroup.engine.frontend.holders import Change
from regroup.engine.frontend.inputs import shapes
from regroup.engine.frontend.names import Names
from regroup.engine.frontend.recorder import Phantom, Recorder, StatefulError, leaves_of
from regroup.engine.frontend.results import Parts, Results, finish, take_apart
from regroup.engine.frontend.snapshot import Snapshot, is_followed
from regroup.engine.graph import Graph, Node
from regroup.errors import EngineError
from regroup.ops.one_operator import as_one_operator

_TRIES = 3
"""Recordings before weights that change meanwhile count as changed by the model, not by another thread."""

_NUMBERS = frozenset(
    {"numpy", "__array__", "tolist", "data_ptr", "const_data_ptr", "mutable_data_ptr", "storage"}
    | {"untyped_storage", "_typed_storage", "__dlpack__", "__reduce_ex__", "__deepcopy__", "__repr__"}
    | {"__format__", "apply_", "map_", "map2_", "share_memory_"}
)
"""Methods that look at a tensor's memory without an operator."""

_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
"""Types of PyTorch's functions that are not written in Python."""


@dataclass(eq=False)
class Capture:
    """A recorded model.

    Attributes:
        graph: every node a `Torch` op.
        results: how the model's result is made of the graph's outputs.
        storages: addresses of the memory of tensors that the model holds: their numbers are not copied.
        reads: those that were read, wherever the model's code has them (closures and globals too), and their
            versions then.
        macs: of each node that multiplies, for the whole batch.
        names: what names stood for in the code that ran.
    """

    graph: Graph
    results: Results
    storages: set[int]
    reads: list[tuple[Tensor, int]]
    macs: dict[Node, int]
    names: Names


def capture(model: Callable, examples: Sequence[Tensor], batch: int) -> Capture:
    """Record `model` on inputs shaped like `examples`, their first dimension replaced by `batch`.

    The model is left exactly as it was.

    Raises:
        EngineError: the model's flow depends on the numbers in a tensor, or it does not run.
        StatefulError: it changes what it holds, or what it holds would not take part.
    """
    _refuse_hooks(model)
    weights: dict[tuple[int, object], Change] = {}
    for attempt in range(_TRIES):
        recording = _Recording(batch, Snapshot(model))
        _running[threading.get_ident()] = recording.before
        try:
            captured = recording.run(model, examples)
        finally:
            replaced, reason = recording.put_back()
            _running.pop(threading.get_ident(), None)
        weights = replaced | weights
        if replaced and attempt < _TRIES - 1:  # perhaps by another thread, which has new ones for the model
            continue
        if replaced:
            recording.before.put_back(weights.values())
            reason = reason or next((f"changes {c.name}" for c in weights.values() if c.matters), "")
        _refuse_hooks(model)
        recording.refuse_survivors(reason)
        if isinstance(captured, EngineError):
            raise captured
        captured.names = recording.names_of(model)
        return captured
    raise AssertionError


_running: dict[int, Snapshot] = {}
"""By thread, the models that are being recorded, as they were."""


def _end_recordings() -> None:
    """In a forked process: put back what recordings have changed whose threads are not there any more."""
    for thread in [thread for thread in _running if thread != threading.get_ident()]:
        before = _running.pop(thread)
        before.put_back(before.changes())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_recordings)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _refuse_hooks(model: object) -> None:
    """Raise an error for hooks, which would not be called."""
    if isinstance(model, nn.Module):
        if module._global_forward_hooks or module._global_forward_pre_hooks:
            raise EngineError("a global hook watches every module")
        for one in model.modules():
            hooks = (*one._forward_hooks.values(), *one._forward_pre_hooks.values())
            if not all(map(is_followed, hooks)):
                raise EngineError(f"a hook watches {type(one).__name__}")


class _Recording:
    """One run of a model on tensors without numbers.

    Attributes:
        before: the model as it was.
    """

    def __init__(self, batch: int, before: Snapshot) -> None:
        self.before, self._recorder = before, Recorder(batch)
        self._ran: dict[int, types.CodeType] = {}
        self._calls = _Calls(before, self._recorder.phantoms)

    def run(self, model: Callable, examples: Sequence[Tensor]) -> Capture | EngineError:
        """Return what was recorded, or why nothing was: raised, it would keep the model's frames alive."""
        sizes = shapes(examples, self._recorder.batch)
        inputs = [
            self._recorder.input(i, size, example.dtype)
            for i, (size, example) in enumerate(zip(sizes, examples, strict=True))
        ]
        parts: list[Parts] = []

        def taken_apart(*wrapped: Tensor) -> list[Tensor]:
            self._calls.phantoms.extend(map(weakref.ref, wrapped))
            layouts = [_layout(x) for x in wrapped]
            with self._calls, self._noting():
                result = model(*wrapped)
            if layouts != [_layout(x) for x in wrapped]:
                raise StatefulError("it changes the shape or attributes of its input")
            parts.append(take_apart(result, wrapped, self.before.holds))
            return parts[0].tensors

        # under inference mode operators would not come decomposed; autocast would leave float32
        plain = (torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False))
        try:
            with plain[0], plain[1], plain[2], as_one_operator(), self._recorder:
                tensors = torch.func.functionalize(taken_apart, remove="mutations")(*inputs)
            return self._captured(parts[0], tensors)
        except EngineError as error:
            clear_frames(error.__traceback__)
            return type(error)(f"cannot record the network: {error}")
        except Exception as error:
            clear_frames(error.__traceback__)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return EngineError(f"cannot record the network: {reason}")

    def _captured(self, parts: Parts, tensors: Sequence[Tensor]) -> Capture:
        graph, held = self._recorder.graph, self.before.holds
        own = [tensor for tensor in tensors if held(tensor)]
        storages = self.before.storages
        results = finish(parts, tensors, own, storages, lambda tensor: isinstance(tensor, Phantom))
        graph.outputs = [tensor.value for tensor in tensors if isinstance(tensor, Phantom)]
        graph.remove_dead()
        reads = [read for read in self._recorder.reads.values() if _address(read[0]) in storages]
        return Capture(graph, results, storages, reads, self._recorder.macs, self.before.names)

    @contextmanager
    def _noting(self) -> Generator[None]:
        """Note which code runs: what else the model's code could do decides nothing."""
        ran, outer = self._ran, sys.gettrace()

        def note(frame: types.FrameType, event: Any, argument: object) -> Any:
            code = frame.f_code
            ran[id(code)] = code
            return None if outer is None else outer(frame, event, argument)

        sys.settrace(note)
        try:
            yield
        finally:
            sys.settrace(outer)

    def names_of(self, model: object) -> Names:
        """Return what names stand for in the code that has run, as they did before."""
        names = Snapshot(model, self._ran).names
        names.compare(self.before.names)
        return names

    def put_back(self) -> tuple[dict[tuple[int, object], Change], str]:
        """Let the model be as it was; return the weights that are others now, and what else it changed."""
        changes = self.before.changes()
        self.before.put_back(change for change in changes if not change.is_weight)
        reason = ""
        for change in changes:
            if not change.is_weight and change.matters and not reason:
                reason = f"{'keeps a tensor in' if change.keeps_phantom else 'changes'} {change.name}"
        return {(id(c.holder.object), c.key): c for c in changes if c.is_weight}, reason

    def refuse_survivors(self, reason: str) -> None:
        """Raise an error if the model changed what it holds, or anything holds a tensor without numbers."""
        survivor = _survivor(self._calls.phantoms)
        if survivor is not None:
            reason = f"keeps a tensor where it cannot be found, in {holders_of(survivor)}"
        if reason:
            raise StatefulError(f"forward {reason}")


def _survivor(phantoms: Sequence[weakref.ref[Tensor]]) -> Tensor | None:
    """Return a tensor without numbers that is still there."""
    alive = phantoms
    for generation in (0, 1, 2):  # circles of exceptions and frames: the youngest are found soonest
        alive = [phantom for phantom in alive if phantom() is not None]
        if alive:
            gc.collect(generation)
    return next((one for phantom in alive if (one := phantom()) is not None), None)


def _layout(x: Tensor) -> tuple[object, ...]:
    """Return what operators may change of a tensor besides its numbers."""
    return x.shape, x.stride(), x.storage_offset(), x.requires_grad, *vars(x)


def _is_pytorchs(function: Callable, options: Mapping[str, object]) -> bool:
    """Tell whether a function is PyTorch's, and calls nothing of others."""
    own = type(function) in _BUILT_IN or getattr(function, "__module__", "") == "torch.nn.functional"
    return own and not any(map(callable, options.values()))


class _Calls(TorchFunctionMode):
    """Sees PyTorch's functions as Python calls them, and refuses those that leave the recording.

    Attributes:
        phantoms: the tensors that Python has been given.
    """

    def __init__(self, before: Snapshot, phantoms: list[weakref.ref[Tensor]]) -> None:
        super().__init__()
        self._before, self.phantoms = before, phantoms

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in _NUMBERS and args and isinstance(args[0], Tensor):
            if torch._is_functional_tensor(args[0]):
                raise EngineError(f"it depends on the numbers in a tensor ({name})")
            self._before.keep_numbers(args[0])
        elif name == "__set__":
            raise StatefulError("it sets an attribute of a tensor")
        note = sys.gettrace() if type(func) in _BUILT_IN else None
        if note is not None:
            sys.settrace(
                None
            )  # what PyTorch does inside of an operator is much, and none of the model's code
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            if note is not None:
                sys.settrace(note)
        for leaf in leaves_of((result,)):
            if isinstance(leaf, Tensor) and torch._is_functional_tensor(leaf):
                self.phantoms.append(weakref.ref(leaf))
        return result
