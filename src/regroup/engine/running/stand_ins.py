"""Objects that stand in for modules: the same attributes and code, but what calls them is asked first.

>>> class Twice(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.layer, self.calls = nn.Linear(2, 2), 0
...     def forward(self, x):
...         self.calls += 1
...         return self.layer(x)
>>> model, seen = Twice(), []
>>> def call(module, eagerly, args, kwargs):
...     seen.append(module)
...     return eagerly(*args, **kwargs)
>>> stand_in = StandIns(call).of(model)
>>> y = stand_in(torch.ones(1, 2))
>>> model.calls, isinstance(stand_in, Twice), seen == [model, model.layer]
(1, True, True)
"""

from __future__ import annotations

import dis
import types
from abc import ABCMeta
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Generic

import torch
from torch import nn

from regroup.engine.frontend.snapshot import is_followed
from regroup.engine.running.checks import NotScripted

Call = Callable[[nn.Module, Callable[..., Any], tuple, dict[str, Any]], Any]
"""Called with a module, what runs its code on the stand-in, and the arguments."""

_BETWEEN = ("CACHE", "PUSH_NULL", "PRECALL", "RESUME")
_NEAR = 8
"""Steps of code within which a type that is asked for is compared."""

_MANY = 1000
"""Stand-ins that are kept beyond the modules that the network has: it makes modules while it runs."""


class StandIns:
    """Stand-ins of modules, one of each, and of those that are found in them.

    Args:
        call: what to do when one is called.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self._of: dict[int, nn.Module] = {}
        self._kinds: dict[type, type] = {}

    def of(self, module: nn.Module) -> nn.Module:
        """Return the stand-in of a module; the module itself where it cannot have one."""
        found = self._of.get(id(module))
        if found is not None and found.__class__ is type(module):  # parametrizations give it another class
            return found
        if not can_be_stood_in_for(module):
            return module
        if len(self._of) > _MANY:
            self._of = {}
        kind = self._kinds.get(type(module)) or self._kinds.setdefault(type(module), _kind(type(module)))
        made = object.__new__(kind)
        kind._stands_for.__set__(made, (module, self))  # type: ignore[attr-defined]  # held, so its id stays its own
        object.__setattr__(made, "__dict__", vars(module))
        self._of[id(module)] = made
        return made


def can_be_stood_in_for(module: nn.Module) -> bool:
    """Tell whether an object of a class made from a module's, with its attributes, does what it does."""
    kind = type(module)
    if isinstance(module, (torch.jit.ScriptModule, NotScripted)) or not _can_be_derived(kind):
        return False
    if _compares(kind) and any(
        _is_or_has_module(value) for name, value in vars(module).items() if name != "_modules"
    ):
        return False  # such are no stand-ins, and would be compared with some
    return all(map(is_followed, (*module._forward_hooks.values(), *module._forward_pre_hooks.values())))


@lru_cache(maxsize=1000)
def _can_be_derived(kind: type) -> bool:
    own = [one for one in kind.__mro__ if one not in (object, Generic)]
    if type(kind) not in (type, ABCMeta) or any(vars(one).get("__slots__") for one in own):
        return False
    if any({"__init_subclass__", "__getattribute__"} & vars(one).keys() for one in own):
        return False
    return not any(_compares_types(code) or "id" in code.co_names for code in _codes(own))


@lru_cache(maxsize=1000)
def _compares(kind: type) -> bool:
    return any(map(_compares_objects, _codes(kind.__mro__)))


def _codes(classes: Iterable[type]) -> Iterator[types.CodeType]:
    """Yield the code of classes, but not PyTorch's and what has run already."""
    for one in classes:
        if one not in (object, Generic) and not one.__module__.startswith("torch.nn."):
            made = (value for name, value in vars(one).items() if name != "__init__")
            yield from (function.__code__ for function in _functions(made))


def _functions(values: Any) -> Iterator[types.FunctionType]:
    for value in values:
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if isinstance(value, types.FunctionType):
            yield value


def _compares_types(code: types.CodeType) -> bool:
    """Tell whether code asks if a type is some class (`type(x) is Linear`): that of a stand-in is another."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _BETWEEN]
    for i, step in enumerate(steps):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval == "type":
            after = [one.opname for one in steps[i + 1 : i + 1 + _NEAR]]
            if "IS_OP" in after and any(name.startswith("CALL") for name in after[: after.index("IS_OP")]):
                return True
    return any(_compares_types(one) for one in code.co_consts if isinstance(one, types.CodeType))


def _compares_objects(code: types.CodeType) -> bool:
    """Tell whether code asks if something is some object (`layer is self.last`), other than a constant."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _BETWEEN]
    asks = (i for i, step in enumerate(steps) if step.opname == "IS_OP")
    if any(steps[i - 1].opname != "LOAD_CONST" for i in asks):
        return True
    return any(_compares_objects(one) for one in code.co_consts if isinstance(one, types.CodeType))


def _is_or_has_module(value: Any) -> bool:
    if isinstance(value, dict):
        value = (*value, *value.values())
    return isinstance(value, nn.Module) or (
        isinstance(value, (list, tuple, set)) and any(isinstance(one, nn.Module) for one in value)
    )


class _Children(MutableMapping):
    """A module's modules, as its code finds them in `_modules`: stand-ins."""

    def __init__(self, held: dict[str, nn.Module | None], stand_ins: StandIns) -> None:
        self._held, self._stand_ins = held, stand_ins

    def __getitem__(self, name: str) -> nn.Module | None:
        found = self._held[name]
        return None if found is None else self._stand_ins.of(found)

    def __setitem__(self, name: str, module: nn.Module | None) -> None:
        self._held[name] = _itself(module)

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


class _Mark:
    """Every stand-in is one of these, and holds the module and what makes stand-ins."""

    __slots__ = ()
    _stands_for: tuple[nn.Module, StandIns]


def _itself(value: Any) -> Any:
    """Return the module for a stand-in; all else as it is."""
    return value._stands_for[0] if isinstance(value, _Mark) else value


def _class_of_classes(of: type) -> type:
    """Return the class of the class of stand-ins: what is done to the latter is done to `of`."""

    class Kind(type(of)):  # type: ignore[misc]
        def __setattr__(cls, name: str, value: Any) -> None:
            setattr(of, name, value)

        def __delattr__(cls, name: str) -> None:
            delattr(of, name)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return of(*args, **kwargs)

        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, of)

        def __eq__(cls, other: object) -> bool:
            return cls is other or of is other

        def __hash__(cls) -> int:
            return hash(of)

    return Kind


def _kind(of: type) -> type:
    """Return the class of stand-ins of modules of a class."""

    class StandIn(_Mark, of, metaclass=_class_of_classes(of)):  # type: ignore[misc, valid-type]
        __slots__ = ("_stands_for",)
        __class__ = property(lambda self: of)  # type: ignore[assignment]

        @property
        def _modules(self) -> _Children:
            return _Children(vars(self)["_modules"], self._stands_for[1])

        @_modules.setter
        def _modules(self, held: Mapping[str, nn.Module | None]) -> None:  # `del` of a list's entry does that
            self.__dict__["_modules"] = OrderedDict((name, _itself(module)) for name, module in held.items())

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            module, stand_ins = self._stands_for
            return stand_ins.call(module, super().__call__, args, kwargs)

        def __getattr__(self, name: str) -> Any:
            found = super().__getattr__(name)
            held = vars(self).get("_modules", {}).get(name)
            return self._stands_for[1].of(found) if held is not None and found is held else found

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, _itself(value))

        def __eq__(self, other: object) -> bool:
            return self._stands_for[0] is _itself(other)

        def __hash__(self) -> int:
            return hash(self._stands_for[0])

        def __reduce_ex__(self, protocol: Any) -> Any:
            return self._stands_for[0].__reduce_ex__(protocol)

    for name in ("__name__", "__qualname__", "__module__"):
        type.__setattr__(StandIn, name, getattr(of, name))
    return StandIn
