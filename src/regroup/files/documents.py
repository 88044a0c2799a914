"""JSON from files: read within limits, and made the type that the reader declares, or one clear error.

>>> @dataclasses.dataclass(frozen=True)
... class Size:
...     height: int
...     names: list[str]
>>> build({"height": 3, "names": ["a"]}, Size)
Size(height=3, names=['a'])
>>> build({"height": "3", "names": []}, Size)
Traceback (most recent call last):
regroup.files.documents.DocumentError: height is '3': must be an int

What is read is UTF-8, has no number that is not finite, names no field twice and is no deeper than 64 levels.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import types
import typing
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast

from regroup.files.reading import read_file

T = TypeVar("T")

LARGEST = 16 << 20
"""Bytes that a document may have if its reader says nothing else; as values it takes up to 64 times that."""

_DEEPEST = 64


class DocumentError(ValueError):
    """A document is no JSON, or not of the type that its reader declares; the message says where."""


def read_document(path: Path, kind: type[T], *, most: int = LARGEST, finite: bool = True) -> T:
    """Return the content of a JSON file as a value of type `kind`; see `build` and `parse`.

    Raises:
        OSError: it cannot be read, is no file, or has more than `most` bytes.
        DocumentError: it is not JSON, or not of this type.
    """
    return build(parse(read_file(path, most=most), finite=finite), kind)


def parse(data: bytes | str, *, finite: bool = True) -> Any:
    """Return the JSON value that a text describes.

    Args:
        data: the text.
        finite: refuse the numbers NaN and Infinity, which Python writes though JSON has them not.

    Raises:
        DocumentError: it is no JSON in UTF-8, names a field twice, or is nested too deeply.
    """
    numbers: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, object_pairs_hook=_once, **numbers)
    except RecursionError:
        raise DocumentError(f"it is nested more than {_DEEPEST} levels deep") from None
    except DocumentError:
        raise
    except ValueError as error:  # of the syntax, of UTF-8, of integers of thousands of digits
        raise DocumentError(f"it is not JSON: {error}") from None
    if _depth_exceeds(value, _DEEPEST):
        raise DocumentError(f"it is nested more than {_DEEPEST} levels deep")
    return value


def build(value: Any, kind: Any, where: str = "") -> Any:
    """Return a JSON value as a `kind`: a dataclass, or what the annotations of its fields may be.

    These are int, float (an int will do), str, bool, None, Any, Literal, list[...], tuple[...],
    dict[str, ...], unions, Path (a text), and dataclasses again. A field that has a default may be missing;
    there may be no others.

    Args:
        value: of `parse`.
        kind: the type.
        where: what the value is called in messages.

    Raises:
        DocumentError: it is of another type; the message names the field, its value and what it must be.
    """
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(value, cast(type, kind), where)
    if origin in (Union, types.UnionType):
        return _build_union(value, arguments, where)
    if origin is Literal:
        if not any(value == allowed and type(value) is type(allowed) for allowed in arguments):
            raise _wrong(where, value, "one of " + ", ".join(map(repr, arguments)))
        return value
    if (origin or kind) in (list, tuple) and isinstance(value, list):
        return _build_items(value, origin or kind, arguments, where)
    if (origin or kind) is dict and isinstance(value, dict):
        item = arguments[1] if arguments else Any
        return {key: build(entry, item, _field(where, key)) for key, entry in value.items()}
    if kind is Path and type(value) is str:
        return Path(value)
    if kind is float and type(value) is int and abs(value) <= 2**1023:
        return float(value)
    if kind is None or kind is type(None):
        kind = type(None)
    if type(value) is not (origin or kind):
        raise _wrong(where, value, _called(kind))
    return value


def require(holds: bool, where: str, value: Any, allowed: str) -> None:
    """Require of a field what its type does not say.

    Raises:
        DocumentError: it does not hold; the message names the field, its value and what it must be.
    """
    if not holds:
        raise _wrong(where, value, allowed)


def _build_dataclass(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object with the fields of " + kind.__name__)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    if unknown := sorted(value.keys() - fields.keys()):
        raise DocumentError(f"{_field(where, unknown[0])} is not known; did another release write it?")
    for name, field in fields.items():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and name not in value:
            raise DocumentError(f"{_field(where, name)} is missing")
    hints = _hints(kind)
    return kind(**{name: build(entry, hints[name], _field(where, name)) for name, entry in value.items()})


def _build_union(value: Any, kinds: tuple, where: str) -> Any:
    errors = []
    for kind in kinds:
        try:
            return build(value, kind, where)
        except DocumentError as error:
            errors.append(error)
    outer = [error for error in errors if str(error).startswith(f"{where or 'it'} is ")]
    if len(outer) < len(errors):  # the fault lies inside one of them
        raise next(error for error in errors if error not in outer)
    raise _wrong(where, value, " or ".join(map(_called, kinds)))


def _build_items(value: list, kind: type, arguments: tuple, where: str) -> list | tuple:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _wrong(where, value, f"a list of {len(arguments)}")
        kinds: Iterator = iter(arguments)
        return tuple(build(item, next(kinds), f"{where}[{i}]") for i, item in enumerate(value))
    of = arguments[0] if arguments else Any
    return kind(build(item, of, f"{where}[{i}]") for i, item in enumerate(value))


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _called(kind: Any) -> str:
    names = {int: "an int", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    names |= {list: "a list", tuple: "a list", dict: "an object", Path: "a text"}
    kind = typing.get_origin(kind) or kind
    return names.get(kind) or f"an object with the fields of {getattr(kind, '__name__', kind)}"


def _wrong(where: str, value: Any, allowed: str) -> DocumentError:
    return DocumentError(f"{where or 'it'} is {reprlib.repr(value)}: must be {allowed}")


def _field(where: str, name: str) -> str:
    name = name if name.isidentifier() else repr(name[:60])
    return f"{where}.{name}" if where else name


def _refuse(constant: str) -> float:
    raise DocumentError(f"it holds {constant}, which is no number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise DocumentError(f"it holds {text[:60]}, which is too large a number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise DocumentError(f"it names {twice[:60]!r} twice")
    return found


def _depth_exceeds(value: Any, depth: int) -> bool:
    """Tell whether a JSON value is nested deeper than that, level by level: no recursion."""
    level = [value]
    for _ in range(depth):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [item for items in inner for item in items if isinstance(item, (dict, list))]
        if not level:
            return False
    return True
