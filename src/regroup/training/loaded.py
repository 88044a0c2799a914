"""What a module of the user's was made from, which may not be what its file says by now.

A file is changed and its module not loaded again, byte code is older than its file though both have one time
and size, a network is of a class from before the module was loaded again: its code is then another than the
file's, and a hash of the file would name a run by code that it was not made by. Python keeps of a module its
functions and what its names stand for, not the statements that made them. So:

* the text that a module was made from is that which its file has when it is looked at first, if the functions
  that are loaded are among those that this text compiles to, and if Python's byte code is that of this text;
  otherwise it is an error, for what was meant can only be guessed. Later changes of the file are nothing to
  the module: who edits a file while a week's comparison is made with it does not end that.
* what is loaded besides, because a program has put other functions or numbers there, counts as it is.
* modules whose loader changes code (pytest's, for one), whose file is gone, or which had none, count by the
  code that is loaded, beside the text.
"""

from __future__ import annotations

import abc
import ast
import contextlib
import functools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from regroup.engine.frontend.functions import CACHED
from regroup.errors import ConfigError
from regroup.files.imports import FromSource
from regroup.files.reading import read_file
from regroup.lazy import BEGAN
from regroup.training.canonical import answers, canonical, code_text, digest, digest_of, is_of_library, parts

_LARGEST = 1 << 26
_HEADER = 16
_LONGEST = 10_000
_AGAIN = "it was changed after it was imported: start anew, or load it again and make the model anew"


class Load:
    """One load of a module: what it was made from.

    Attributes:
        module: as it was then.
        spec: another one if the module was loaded again.
        text: the source; None if there is none.
        compiled: the code of the text; None if the code that is loaded may be another.
        certain: it is known that this is the text, and not one that the file has had since.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, getattr(module, "__spec__", None)
        self.path = Path(str(module.__file__))
        loader = getattr(self.spec, "loader", None)
        self.text = loader.source if isinstance(loader, FromSource) else _read(self.path)
        self.compiled: CodeType | None = None
        self.certain = isinstance(loader, FromSource)
        if self.text is None or not isinstance(loader, SourceFileLoader) or type(loader) not in _PLAIN:
            return
        try:
            self.compiled = loader.source_to_code(self.text, str(self.path))
        except (SyntaxError, ValueError) as error:
            raise _stale(self.path, _AGAIN) from error
        if not self.certain:
            self.certain = self._is_of_byte_code() or self.path.stat().st_ctime < BEGAN

    @cached_property
    def codes(self) -> frozenset[str]:
        """The functions that the text compiles to."""
        assert self.compiled is not None
        return frozenset(map(code_text, _nested(self.compiled)))

    @cached_property
    def said(self) -> dict[str, Any]:
        """What the text says of names: values that are written out, functions' defaults, by dotted name."""
        assert self.text is not None
        tree = ast.parse(self.text)
        changing = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
        return {name: value for name, value in _said(tree.body) if name.partition(".")[0] not in changing}

    def digest(self, classes: Iterable[type]) -> str:
        """Return a hash of what is loaded.

        Args:
            classes: of this module, in use: they may be from before it was loaded again.

        Raises:
            ConfigError: what is loaded is not what the file says.
        """
        found = digest(self.text or b"")
        functions = list(_functions(self.module, classes))
        if self.compiled is None:
            return f"{found}+{digest_of([[name, canonical(one)] for name, one in functions])}"
        others: list[Any] = []
        for name, function in functions:
            if function.__code__.co_filename != self.compiled.co_filename:
                others.append([name, canonical(function)])
            elif code_text(function.__code__) not in self.codes:
                raise _stale(self.path, f"{name} is another there: {_AGAIN}")
        others += self._changed()
        return f"{found}+{digest_of(others)}" if others else found

    def _changed(self) -> Iterator[Any]:
        """Yield names that do not stand for what the text says, and what they stand for."""
        for name, value in self.said.items():
            now = _at(self.module, name)
            if now is _UNKNOWN or (now is _MISSING and getattr(self.spec, "_initializing", False)):
                continue
            if now is not _MISSING and self._is_as_said(now, value):
                continue
            if not self.certain and (now is _MISSING or value is not _CODE):
                raise _stale(self.path, f"{name} is another there: {_AGAIN}")
            yield [name, None if now is _MISSING else canonical(now)]

    def _is_as_said(self, now: Any, value: Any) -> bool:
        if value is not _CODE:
            return canonical(now) == canonical(value)
        if isinstance(now, FunctionType):
            return now.__globals__.get("__name__") == self.module.__name__
        return isinstance(now, type) and now.__module__ == self.module.__name__

    def _is_of_byte_code(self) -> bool:
        """Tell whether Python has kept the byte code of this text.

        Raises:
            ConfigError: it has kept that of another, though it would have kept this one.
        """
        kept = getattr(self.spec, "cached", None)
        if kept is None or (data := _read(Path(kept))) is None:
            return False
        try:
            code = SourcelessFileLoader(self.module.__name__, kept).get_code(self.module.__name__)
        except Exception:  # damaged, or of another release: Python does not take it either
            return False
        assert self.compiled is not None
        if code is None or code_text(code) == code_text(self.compiled):
            return code is not None
        if data[4:_HEADER] == _header(self.path) or data[4] == 1:
            raise _stale(self.path, f"Python has older byte code of it: remove {kept} and start anew")
        if not data[4] and not sys.dont_write_bytecode and os.access(Path(kept).parent, os.W_OK):
            raise _stale(self.path, _AGAIN)
        return False


_LOADS: dict[str, Load] = {}


def load_of(module: ModuleType) -> Load:
    """Return the load that a module is of.

    Raises:
        ConfigError: its file was changed since.
    """
    known = _LOADS.get(module.__name__)
    if known is None or known.module is not module or known.spec is not getattr(module, "__spec__", None):
        known = _LOADS[module.__name__] = Load(module)
    return known


class _Sign(NamedTuple):
    means: str


_MISSING = _Sign("there is nothing of that name")
_UNKNOWN = _Sign("what there is may not be what the text says, and yet be of it")
_CODE = _Sign("a function or class")
_PLAIN = (SourceFileLoader, FromSource)
"""Loaders that run what Python makes of the text, and no more."""


def _stale(path: Path, remedy: str) -> ConfigError:
    return ConfigError("code", str(path), "what is loaded", remedy)


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path, most=_LARGEST)
    except OSError:
        return None


def _header(path: Path) -> bytes:
    """Return what Python writes before byte code, by which it knows whether that is of a file."""
    status = path.stat()
    numbers = (0, int(status.st_mtime), status.st_size)
    return b"".join((number & 0xFFFFFFFF).to_bytes(4, "little") for number in numbers)


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _functions(module: ModuleType, classes: Iterable[type]) -> Iterator[tuple[str, FunctionType]]:
    """Yield functions of a module, of its classes, enclosed in them or put there, by where they are."""
    seen: dict[int, Any] = {}  # held, so that nothing else gets its number
    todo: list[tuple[str, Any, bool]] = [(kind.__qualname__, kind, False) for kind in classes]
    todo += [(name, value, False) for name, value in vars(module).items()]
    while todo:
        name, value, of_fields = todo.pop()
        if id(value) in seen or not answers(value):
            continue
        seen[id(value)] = value
        if isinstance(value, FunctionType):
            home = value.__globals__.get("__name__")
            loose = not is_of_library(value) and not has_file(sys.modules.get(str(home)))
            made = of_fields and value.__code__.co_filename.startswith("<")  # by Python, of a class's fields
            if (loose or home == module.__name__) and not made:
                yield name, value
            inner = [*parts(value)[3], getattr(value, "__wrapped__", None)]
            todo += [(f"{name}()", each, of_fields) for each in inner]
        elif not isinstance(value, type):
            todo += [(name, each, of_fields) for each in inside(value)]
        elif value.__module__ == module.__name__:
            todo += [(f"{name}.{n}", v, _has_fields(value)) for n, v in list(vars(value).items())]


def _has_fields(kind: type) -> bool:
    return hasattr(kind, "__dataclass_fields__") or hasattr(kind, "_fields")


def has_file(module: ModuleType | None) -> bool:
    """Tell whether a module is not the program itself and comes from a file, there still or not."""
    file = getattr(module, "__file__", None)
    return module is not None and module.__name__ != "__main__" and isinstance(file, str)


def inside(value: Any) -> Iterator[Any]:
    """Yield what functions and classes may be in: what stands around them, and tables of them."""
    if isinstance(value, (staticmethod, classmethod, MethodType)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset, value.fdel)
    elif isinstance(value, (functools.partial, functools.partialmethod, functools.cached_property)):
        yield value.func
        yield from (*getattr(value, "args", ()), *getattr(value, "keywords", {}).values())
    elif isinstance(value, CACHED):
        yield value.__wrapped__
    elif isinstance(value, (list, tuple, set, frozenset)) and len(value) <= _LONGEST:
        yield from value
    elif isinstance(value, dict) and len(value) <= _LONGEST:
        yield from list(value.values())


def _said(body: Iterable[ast.stmt], within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a module's or a class's statements say of names that they give something to only once."""
    body = list(body)
    times = Counter(name for statement in body for name in _given(statement))
    for statement in body:
        names = list(_given(statement))
        if len(names) != 1 or times[names[0]] != 1 or names[0] in ("__module__", "__qualname__"):
            continue
        name, value = f"{within}{_inside_class(names[0], within)}", getattr(statement, "value", None)
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and not statement.decorator_list:
            yield name, _CODE
            yield from _defaults(name, statement.args, within)
        elif isinstance(statement, ast.ClassDef) and not statement.decorator_list:
            yield name, _CODE
            yield from _said(statement.body, f"{name}.")
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and value is not None:
            with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                found = ast.literal_eval(value)
                if found or not isinstance(found, (list, dict, set)):  # an empty one is there to be filled
                    yield name, found


def _inside_class(name: str, within: str) -> str:
    """Return what a name in a class is called from outside: `__private` has the class's name before it."""
    if not within or not name.startswith("__") or name.endswith("__"):
        return name
    return f"_{within.split('.')[-2].lstrip('_')}{name}"


def _given(statement: ast.stmt) -> Iterator[str]:
    """Yield the names to which a statement gives something, or may."""
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


def _defaults(name: str, arguments: ast.arguments, within: str) -> Iterator[tuple[str, Any]]:
    with contextlib.suppress(ValueError, TypeError, SyntaxError):
        yield f"{name}.__defaults__", tuple(map(ast.literal_eval, arguments.defaults)) or None
    with contextlib.suppress(ValueError, TypeError, SyntaxError):
        pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        pairs = ((_inside_class(key.arg, within), value) for key, value in pairs if value is not None)
        given = {key: ast.literal_eval(value) for key, value in pairs}
        yield f"{name}.__kwdefaults__", given or None


def _at(module: ModuleType, name: str) -> Any:
    """Return what is there by a dotted name, without calling anything."""
    found: Any = module
    for part in name.split("."):
        if isinstance(found, FunctionType):
            found = getattr(found, part)
        elif found is module or (isinstance(found, type) and _has_what_is_said(found, module)):
            found = vars(found).get(part, _MISSING)
            if isinstance(found, (staticmethod, classmethod)):  # Python makes them of `__new__` and others
                found = found.__func__
        else:
            return _UNKNOWN if found is not _MISSING else _MISSING
    return found


def _has_what_is_said(kind: type, module: ModuleType) -> bool:
    """Tell whether a class is of a module, and its attributes are what its statements say."""
    return kind.__module__ == module.__name__ and type(kind) in (type, abc.ABCMeta) and not _has_fields(kind)
