"""What decides how a model is recorded: its modules, their attributes and hooks, and its tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from regroup.engine.frontend.names import NAMESPACES
from regroup.engine.frontend.snapshot import is_other
from regroup.engine.watching.held import Held

_GLOBAL_HOOKS = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
"""Those of all modules."""

_NOT_FOLLOWED = frozenset(
    name
    for name in vars(nn.Module())
    if "hook" in name and name not in ("_forward_hooks", "_forward_pre_hooks")
) | {"_non_persistent_buffers_set"}
"""Attributes of every module that inference does not read."""

_TRAINING_ONLY = "num_batches_tracked"
"""A buffer of batch norms that does not influence what they compute in eval mode."""

_PLAIN = (int, bool, str, bytes, type(None), torch.dtype, torch.device, torch.memory_format, range, slice)


class State:
    """A model's modules, with everything that hangs on them: attributes, hooks, tensors.

    Followed are modules, tensors, dictionaries, lists, tuples, sets, dataclasses, namespaces, and objects of
    classes that are not Python's or PyTorch's, wherever one holds another, and the hooks of all modules. Of
    other objects it is known which they are, not what is in them. All are held, so that none of their
    addresses is another object's later.

    Attributes:
        tensors: parameters, buffers, and tensors in attributes and containers, each once.
    """

    def __init__(self, model: object) -> None:
        self.tensors: list[Tensor] = []
        self._objects: list[object] = []
        self._owners: list[tuple[object, dict]] = []
        self._homes: list[tuple[dict, list[tuple[Any, Any]]]] = []
        self._lists: list[tuple[list, list[Any]]] = []
        self._sets: list[tuple[set | frozenset, frozenset]] = []
        self._tokens: list[object] = []
        self._number: dict[int, int] = {}
        left = [iter((model, *_GLOBAL_HOOKS, *_tensors_of(model)))]
        while left:
            for value in left[-1]:
                inside = self._take(value)
                if inside:
                    left.append(iter(inside))
                    break
            else:
                left.pop()
        self._held = Held(self._objects, self._owners, self._homes, self._lists, self._sets)

    def __eq__(self, other: object) -> bool:
        """Tell whether both are the same modules and tensors with equal plain values around them."""
        if not isinstance(other, State) or len(self._tokens) != len(other._tokens):
            return False
        return all(map(_equal, self._tokens, other._tokens))

    __hash__ = None  # type: ignore[assignment]

    def unchanged(self) -> bool:
        """Tell whether everything holds what it held: the same objects, not only equal ones."""
        return self._held.unchanged()

    def follows(self, value: object) -> bool:
        """Tell whether what is in a dictionary, list, set or module is followed."""
        return id(value) in self._number

    def _take(self, value: Any) -> list[Any]:
        """Note a value; return what is in it and to be followed."""
        if isinstance(value, _PLAIN):
            self._tokens.append((type(value), value))
            return []
        if isinstance(value, float):
            self._tokens.append((type(value), value.hex()))
            return []
        known = self._number.get(id(value))
        if known is not None:
            self._tokens.append(("again", known))
            return []
        self._number[id(value)] = len(self._number)
        return self._follow(value)

    def _follow(self, value: Any) -> list[Any]:
        if isinstance(value, dict):
            held = list(dict.items(value))
            self._homes.append((value, held))
            self._tokens.append((type(value), *(k if isinstance(k, (str, int)) else id(k) for k, _ in held)))
            return [one for key, one in held if _matters(key, one)]
        if isinstance(value, list):
            self._lists.append((value, held := list(value)))
            self._tokens.append((type(value), len(held)))
            return held
        if isinstance(value, tuple):
            self._tokens.append((type(value), len(value)))
            return list(value)
        if isinstance(value, (set, frozenset)):
            self._sets.append((value, frozenset(value)))
            self._tokens.append((type(value), frozenset(value)))
            return []
        self._tokens += (type(value), value)
        if isinstance(value, Tensor):
            self._objects.append(value)
            self.tensors.append(value)
        elif isinstance(value, nn.Module) or _is_settings(value):
            self._objects.append(value)
            self._owners.append((value, vars(value)))
            return [vars(value)]
        return []


class Watched:
    """The state of a model, or of several, and whether it is still that.

    Attributes:
        state: as it is.
    """

    def __init__(self, model: object) -> None:
        self._model, self.state = model, State(model)

    def unchanged(self) -> bool:
        """Tell whether everything holds what it held, or plain values that are equal."""
        if not self.state.unchanged():
            now = State(self._model)
            if now != self.state:
                return False
            self.state = now  # other objects of equal value
        return True


def _tensors_of(model: object) -> Iterator[Tensor]:
    """Yield a module's own tensors, which scripted ones do not keep in dictionaries."""
    if isinstance(model, nn.Module):
        named = chain(model.named_parameters(), model.named_buffers())
        yield from (tensor for name, tensor in named if _matters(name.rpartition(".")[2], tensor))


def _matters(key: object, value: object) -> bool:
    return key not in _NOT_FOLLOWED if not isinstance(value, Tensor) else key != _TRAINING_ONLY


def _is_settings(value: object) -> bool:
    """Tell whether what an object of the user's has in its attributes may decide what a model computes."""
    if isinstance(value, type) or type(getattr(value, "__dict__", None)) is not dict:
        return False
    kind = type(value)
    return isinstance(value, NAMESPACES) or dataclasses.is_dataclass(kind) or not is_other(kind.__module__)


def _equal(a: object, b: object) -> bool:
    """Compare two tokens: plain values are tuples with their types, all else is what it is."""
    return a is b or (type(a) is tuple and type(b) is tuple and a == b)
