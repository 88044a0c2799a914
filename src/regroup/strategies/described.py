"""What can be said of a strategy without running it: its form, kind, options with their ranges, paper.

>>> from regroup.strategies import strategies
>>> found = describe(strategies["grouped"])
>>> found.kind, found.options[0].allowed, found.options[0].default
('fixed', 'an int of at least 1, or none', 'none')
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from dataclasses import dataclass
from typing import Any

from regroup.errors import ParameterError
from regroup.spec import ConvSpec
from regroup.strategies import Strategy, to_text
from regroup.strategies.learning import learned_modules

EXAMPLE = ConvSpec(64, 64, 3, padding=1)
"""The convolution that costs and kinds are told of."""

SIZE = (56, 56)

_REFUSED: dict[type, Any] = {int: -1, float: -1.0, str: "?", tuple: (-1,)}
"""Values that no option takes: what is said of them is what it does take."""


@dataclass(frozen=True)
class Option:
    """An option of a strategy.

    Attributes:
        name: of the option.
        type: int, float, bool, str or tuple.
        allowed: its values, in the words of the error that another one raises.
        default: as `parse_strategy` reads it.
        text: what it is.
    """

    name: str
    type: str
    allowed: str
    default: str
    text: str


@dataclass(frozen=True)
class Description:
    """A strategy in words.

    Attributes:
        name: of the strategy.
        kind: "learned" if its groups, kernels or scales come from training, else "fixed".
        form: what it does, in a line.
        text: the rest of what its documentation says: the formula, the cost, how it differs from the paper.
        options: what can be set.
        paper: where it was published.
        macs: of its default on `EXAMPLE`, as a share of the dense ones.
    """

    name: str
    kind: str
    form: str
    text: str
    options: list[Option]
    paper: str
    macs: float


def describe(cls: type[Strategy]) -> Description:
    """Return the description of a strategy."""
    words, _, arguments = (inspect.getdoc(cls) or "").partition("\nArgs:\n")
    form, _, text = words.strip().partition("\n\n")
    says = _says(arguments)
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    options = [
        Option(
            f.name,
            _kind(hints[f.name]).__name__,
            _allowed(cls, f.name, hints[f.name]),
            to_text(f.default),
            says.get(f.name, ""),
        )
        for f in fields
    ]
    made = cls()
    kind = "learned" if learned_modules(made.build(EXAMPLE)) else "fixed"
    share = made.cost(EXAMPLE, SIZE).macs / EXAMPLE.cost(SIZE).macs
    return Description(cls.name, kind, " ".join(form.split()), text, options, cls.paper, share)


def _says(arguments: str) -> dict[str, str]:
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _kind(hint: Any) -> type:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(k for k in kinds if k is not type(None))
    return typing.get_origin(kind) or kind


def _allowed(cls: type[Strategy], name: str, hint: Any) -> str:
    """Return what a strategy says of a value that it does not take: the first variant that has the option."""
    kind = _kind(hint)
    if kind is bool:
        return "true or false"
    or_none = ", or none" if isinstance(hint, types.UnionType) else ""
    said = ""
    for variant in (cls(), *cls.variants()):
        try:
            dataclasses.replace(variant, **{name: _REFUSED[kind]})  # type: ignore[type-var]
        except ParameterError as error:
            said = said or error.allowed
            if not error.allowed.startswith("left out"):
                return error.allowed + or_none
    return said + or_none
