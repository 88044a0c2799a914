"""The code that a run is made by: hashes of what its user wrote, releases of what he installed."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from regroup.engine.frontend.functions import CACHED, loads_of, stores_of
from regroup.files.imports import is_installed
from regroup.lazy import BEGAN
from regroup.training.canonical import answers, canonical, digest_of, held, is_of_library, name_of, parts
from regroup.training.loaded import has_file, inside, load_of

_HOME = Path(__file__).parents[1]
PARTS = ("spec.py", "kernels", "ops", "strategies", "networks", "conversion", "training")
"""The part of regroup by which networks are made and trained."""

ENGINE = (*PARTS, "engine", "profiling")
"""... and run and timed."""

_ALWAYS = ("torch", "torchvision", "timm", "numpy", "PIL")
_OF_PYTHON = ("__dict__", "__weakref__", "__module__", "__firstlineno__", "__abstractmethods__", "_abc_impl")
"""Names that classes have whatever is in them, or that say where."""

_AROUND = (staticmethod, classmethod, property, functools.cached_property, functools.partialmethod, CACHED)


def sources(roots: Iterable[Any]) -> dict[str, str]:
    """Return a hash of each file of Python code that the user wrote and that `roots` make use of.

    These are the files in which the roots are defined, and those of modules that are global names there or
    of which something is, and so on, as they were when they were loaded: see `regroup.training.loaded`. What
    is installed is not looked at: see `packages`. What is in no file, or in the program itself, the module
    `__main__`, counts by its loaded code and the globals that this reads, and by nothing else there.

    Args:
        roots: classes, functions and modules.

    Returns:
        Hashes by name of the file; of what is in none, by its module's name and its own.

    Raises:
        ConfigError: a file was changed since it was loaded.
    """
    found: dict[str, list[str]] = {}
    reached = _Reached(roots)
    for module, classes in reached.modules.values():
        load = load_of(module)
        found.setdefault(load.path.name, []).append(load.digest(classes))
    for name, thing in reached.loose:
        found.setdefault(name, []).append(digest_of(_loose(thing)))
    return {name: "+".join(sorted(set(digests))) for name, digests in sorted(found.items())}


def packages(roots: Iterable[Any]) -> dict[str, str]:
    """Return the releases of the installed packages that `roots` are from, and of those always used."""
    names = {module.__name__.partition(".")[0] for root in roots if (module := _module(root)) is not None}
    names -= {"regroup", "builtins", "__main__"} | set(sys.stdlib_module_names)
    found = {name.replace("PIL", "pillow"): _release(name) for name in {*_ALWAYS, *names}}
    return {
        "regroup": f"{sys.modules['regroup'].__version__} ({own_digest(PARTS)})",
        **{name: release for name, release in sorted(found.items()) if release},
    }


def _module(thing: Any) -> ModuleType | None:
    if isinstance(thing, ModuleType):
        return thing
    try:
        name = getattr(thing, "__module__", None)
    except Exception:  # somebody's proxy of what is not there
        return None
    return sys.modules.get(name) if isinstance(name, str) else None


class _Reached:
    """The user's code that is made use of.

    Attributes:
        modules: from files, with those classes of each that were met, by name.
        loose: functions and classes that are in no file, by name.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.modules: dict[str, tuple[ModuleType, list[type]]] = {}
        self.loose: list[tuple[str, Any]] = []
        self._seen: dict[int, Any] = {}  # held, so that no other thing gets its number
        self._todo = list(roots)
        while self._todo:
            thing = self._todo.pop()
            if id(thing) not in self._seen and answers(thing):
                self._seen[id(thing)] = thing
                self._take(thing)

    def _take(self, thing: Any) -> None:
        if isinstance(thing, ModuleType):
            if has_file(thing) and not is_installed(Path(str(thing.__file__))):
                self._take_module(thing)
        elif isinstance(thing, (FunctionType, type)):
            if not is_of_library(thing):
                self._take_code(thing)
        else:
            self._todo += inside(thing)
            if not is_of_library(kind := type(thing)):
                self._todo += [kind] if isinstance(thing, nn.Module) else [kind, *held(thing).values()]

    def _take_module(self, module: ModuleType) -> None:
        if module.__name__ not in self.modules:
            self.modules[module.__name__] = module, []
            self._todo += list(vars(module).values())

    def _take_code(self, thing: FunctionType | type) -> None:
        module = sys.modules.get(_home(thing))
        if module is not None and has_file(module):
            self._take(module)
            if isinstance(thing, type):
                self.modules[module.__name__][1].append(thing)
            return
        self.loose.append((f"{_home(thing)}.{thing.__qualname__}", thing))
        if isinstance(thing, type):
            self._todo += [*thing.__bases__, *vars(thing).values()]
        else:
            self._todo += [*_globals(thing).values(), *parts(thing)[1:]]


def _home(thing: Any) -> str:
    if isinstance(thing, FunctionType):
        return str(thing.__globals__.get("__name__"))
    return str(thing.__module__)


def _globals(function: FunctionType) -> dict[str, Any]:
    """Return what the globals that a function reads stand for, but for those that functions assign."""
    code, space = function.__code__, function.__globals__
    return {name: space[name] for name in sorted(loads_of(code) - stores_of(code)) if name in space}


def _loose(thing: FunctionType | type) -> Any:
    """Return all that a function or class is, if no file says it."""
    if isinstance(thing, FunctionType):
        return [canonical(thing), [[name, canonical(value)] for name, value in _globals(thing).items()]]
    members = [[name, _member(value)] for name, value in vars(thing).items() if name not in _OF_PYTHON]
    return [list(map(name_of, thing.__bases__)), members]


def _member(value: Any) -> Any:
    """Return the form of what a class has under a name."""
    around = [*inside(value)] if isinstance(value, _AROUND) else []
    return [type(value).__qualname__, *map(canonical, around)] if around else canonical(value)


def _release(name: str) -> str:
    """Return the release of a package that is loaded, or that would be: another may have been installed."""
    found = getattr(sys.modules.get(name), "__version__", None)
    if not isinstance(found, str):
        try:
            found = version(name.replace("PIL", "pillow"))
        except PackageNotFoundError:
            return ""
    return found.partition("+")[0]  # +cpu and +cu126 are one release


@functools.lru_cache(maxsize=4)
def own_digest(parts: tuple[str, ...]) -> str:
    """Return a hash of files and directories of regroup itself.

    Raises:
        ConfigError: they were changed since they were imported: another release was installed.
    """
    seen = hashlib.sha256()
    for part in parts:
        path = _HOME / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            place = file.relative_to(_HOME)
            if file.stat().st_ctime > BEGAN:
                _check_own(place)
            seen.update(f"{place.as_posix()}\0".encode() + file.read_bytes())
    return seen.hexdigest()[:8]


def _check_own(place: Path) -> None:
    names = ("regroup", *place.with_suffix("").parts)
    module = sys.modules.get(".".join(names[:-1] if names[-1] == "__init__" else names))
    if module is not None:
        load_of(module).digest(())
