"""The proof, once in each process, that machine code sees every change of known objects, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regroup.engine.watching.facts import facts, span
from regroup.engine.watching.interfaces import find
from regroup.kernels.watch.glance import Interfaces
from regroup.kernels.watch.objects import Objects
from regroup.kernels.watch.tensors import Tensors

_Change = Callable[[Any], object]

_NO_LINES = np.zeros(0, np.int64)

_OF_DICTIONARIES: tuple[_Change, ...] = (
    lambda d: d.__setitem__("a", object()),
    lambda d: d.__setitem__("more", 1),
    lambda d: d.__delitem__("a"),
    lambda d: d.__setitem__("c", d.pop("b")),
    lambda d: d.clear(),
)

_OF_LISTS: tuple[_Change, ...] = (
    lambda one: one.append(1),
    lambda one: one.pop(),
    lambda one: one.reverse(),
    lambda one: one.__setitem__(0, object()),
)

_OF_OBJECTS: tuple[_Change, ...] = (
    lambda one: setattr(one, "__class__", nn.ReLU),
    lambda one: setattr(one, "__dict__", dict(vars(one))),
)

_OF_TENSORS: tuple[_Change, ...] = (
    lambda t: t.add_(0),
    lambda t: t.detach().zero_(),
    lambda t: t.set_(torch.ones(16, 16)),
    lambda t: t.resize_(16, 15),
    lambda t: t.t_(),
    lambda t: t.untyped_storage().resize_(2048),
    lambda t: setattr(t, "data", t.data.clone()),
    lambda t: setattr(t, "data", t.data.t()),
    lambda t: setattr(t, "data", t.data.view(torch.int32)),
    lambda t: setattr(t, "data", t.data[:15]),
    lambda t: torch.utils.swap_tensors(t, t.clone()),
    lambda t: torch.utils.swap_tensors(t, torch.zeros(16, 16, dtype=torch.float64)),
    lambda t: torch.utils.swap_tensors(t, torch.zeros(16, 16).to_sparse()),
    lambda t: torch.utils.swap_tensors(t, torch.zeros(16, 16, device="meta")),
    lambda t: np.add(numbers := t.numpy(), 1, out=numbers),
)


@cache
def interfaces() -> Interfaces | None:
    """Return the interfaces for machine code that looks at objects, or None where it may not."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        found = find()
        return found if found is not None and _sees_changes(found) else None


def _sees_changes(found: Interfaces) -> bool:
    return (
        all(_sees(change, {"a": 1, "b": 2}, _dictionary, found) for change in _OF_DICTIONARIES)
        and all(_sees(change, vars(_Plain()), _dictionary, found) for change in _OF_DICTIONARIES)
        and all(_sees(change, [1, 2], _list, found) for change in _OF_LISTS)
        and all(_sees(change, nn.Identity(), _object, found) for change in _OF_OBJECTS)
        and all(_sees(change, torch.zeros(16, 16), _tensor, found) for change in _OF_TENSORS)
    )


def _sees(change: _Change, one: Any, look: Callable[[Interfaces, Any], tuple], found: Interfaces) -> bool:
    """Tell whether two looks see nothing, and the next, after the change, sees it."""
    same, _held = look(found, one)
    before = same() and same()
    change(one)
    return before and not same() and not same()


def _dictionary(found: Interfaces, one: dict) -> tuple:
    held = list(one.items())
    return Objects(found, [], [], [(one, held)], [], _NO_LINES), held


def _list(found: Interfaces, one: list) -> tuple:
    held = list(one)
    return Objects(found, [], [], [], [(one, held)], _NO_LINES), held


def _object(found: Interfaces, one: object) -> tuple:
    held = vars(one)
    return Objects(found, [one], [(one, held)], [], [], _NO_LINES), held


def _tensor(found: Interfaces, one: Tensor) -> tuple:
    return Tensors(found, [facts(one)], [span(one)], _NO_LINES), one.untyped_storage()


class _Plain:
    def __init__(self) -> None:
        self.a, self.b = 1, 2
