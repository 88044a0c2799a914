"""What is wrong with a command line that was refused: one line, which names the option and what it takes."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

import tyro

from regroup.errors import ParameterError

_UNIONS = (Union, types.UnionType)


@dataclass(frozen=True)
class Option:
    """An option of a command as it stands in its dataclass: what it takes, and how it is written.

    Attributes:
        name: of the field.
        kinds: types that a value may have; a Literal stands for its values.
        many: it takes any number of values.
        flags: --name, its aliases, and --no-name; empty for what has its place instead of a name.
        required: it must be given.
    """

    name: str
    kinds: tuple[Any, ...]
    many: bool
    flags: tuple[str, ...]
    required: bool

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return self.kinds == (bool,)

    def fits(self, text: str) -> bool:
        """Tell whether a text is a value of it."""
        return any(_fits(text, kind) for kind in self.kinds)

    @property
    def allowed(self) -> str:
        """What it takes, as the end of "must be ..."."""
        return " or ".join(map(_called, self.kinds))


def options_of(options: type) -> list[Option]:
    """Return the options of a command, in their order.

    Args:
        options: the command's dataclass.
    """
    hints = typing.get_type_hints(options, include_extras=True)
    return [_option(field, hints[field.name]) for field in dataclasses.fields(options)]


def misuse(options: type, arguments: Sequence[str], refusal: BaseException) -> ParameterError | None:
    """Return what is wrong with arguments that were refused, None if it is something else than these see.

    Args:
        options: the command's dataclass.
        arguments: of the command line, after the command.
        refusal: how they were refused; what the dataclass itself said of its values is in its context.
    """
    known = options_of(options)
    return next(_faults(known, list(arguments)), None) or _said_by_options(refusal)


def _said_by_options(error: BaseException | None) -> ParameterError | None:
    while error is not None and not isinstance(error, ParameterError):
        error = error.__cause__ or error.__context__
    return error


def _faults(known: list[Option], arguments: list[str]) -> Iterator[ParameterError]:
    by_flag = {flag: option for option in known for flag in option.flags}
    places, given = [option for option in known if not option.flags], set()
    for flag, values in _split(arguments, by_flag):
        option = by_flag.get(flag)
        if flag and option is None:
            near = difflib.get_close_matches(flag, by_flag, n=3)
            remedy = "did you mean " + " or ".join(near) + "?" if near else "--help lists them"
            yield ParameterError("option", flag, "one of this command's", remedy)
            continue
        if option is None:
            if not places:
                yield ParameterError("argument", values[0], "left out: nothing more has its place here")
                continue
            option = places.pop(0)
        given.add(option.name)
        if option.is_switch:
            if values:
                yield ParameterError(option.name, values[0], f"left out: {flag} takes no value")
        elif not values and not option.many:
            yield ParameterError(option.name, "", option.allowed, "its value is missing")
        for value in () if option.is_switch else values:
            if not option.fits(value):
                yield ParameterError(option.name, value, option.allowed)
    for option in known:
        if option.required and option.name not in given:
            written = option.flags[0] if option.flags else option.name.upper()
            yield ParameterError(option.name, None, f"given: {written}", "--help says what it may be")


def _split(arguments: list[str], by_flag: dict[str, Option]) -> Iterator[tuple[str, list[str]]]:
    """Yield each flag with its values, and each value that has no flag with ""."""
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if not _is_flag(token):
            yield "", [token]
            continue
        name, equals, value = token.partition("=")
        flag = name.replace("_", "-")
        option = by_flag.get(flag)
        values = [value] if equals else []
        most = 0 if equals or option is None or option.is_switch else len(rest) if option.many else 1
        while rest and len(values) < most and not _is_flag(rest[0]):
            values.append(rest.pop(0))
        yield flag, values


def _is_flag(token: str) -> bool:
    return len(token) > 1 and token.startswith("-") and not _fits(token, float)


def _option(field: dataclasses.Field, hint: Any) -> Option:
    hint, marks = _bare(hint)
    arguments = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    many = any(typing.get_origin(kind) is tuple for kind in arguments)
    kinds = tuple(
        typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind for kind in arguments
    )
    missing = dataclasses.MISSING
    required = field.default is missing and field.default_factory is missing
    flags: tuple[str, ...] = ()
    if tyro.conf.Positional[int].__metadata__[0] not in marks:  # type: ignore[missing-attribute]
        names = [mark.name for mark in marks if getattr(mark, "name", None)]
        written = names[0] if names else field.name.replace("_", "-")
        flags = (f"--{written}", *(alias for mark in marks for alias in getattr(mark, "aliases", None) or ()))
        flags += (f"--no-{written}",) if kinds == (bool,) else ()
    return Option(field.name, kinds, many, flags, required)


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, ()
    return typing.get_args(hint)[0], hint.__metadata__


def _fits(text: str, kind: Any) -> bool:
    if kind is type(None):
        return text == "None"
    if typing.get_origin(kind) is Literal:
        return text in map(str, typing.get_args(kind))
    if kind in (int, float):
        try:
            kind(text)
        except ValueError:
            return False
    return True


def _called(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    names = {int: "an int", float: "a number", str: "a text", type(None): "None"}
    return names.get(kind, "a path")
