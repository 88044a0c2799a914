"""The code that a run is made by: hashes of what its user wrote, releases of what he installed."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_HOME = Path(__file__).parents[1]
PARTS = ("spec.py", "kernels", "ops", "strategies", "networks", "conversion", "training")
"""The part of regroup by which networks are made and trained."""

ENGINE = (*PARTS, "engine", "profiling")
"""... and run and timed."""

_ALWAYS = ("torch", "torchvision", "timm", "numpy", "pillow")
_DEEPEST = 12


def sources(roots: Iterable[Any]) -> dict[str, str]:
    """Return a hash of each file of Python code that the user wrote and that `roots` make use of.

    These are the files in which the roots are defined, and those of modules that are global names there or
    of which something is, and so on. What is installed is not looked at: see `packages`. Of a program itself,
    the module `__main__`, only the classes and functions among the roots count, not what else it does.

    Args:
        roots: classes, functions and modules.

    Returns:
        Hashes by name of the file, or by name of the class for those of `__main__`.
    """
    found: dict[str, list[str]] = {}
    own = [module for root in roots if (module := _module(root)) is not None and _is_own(module)]
    for module in _reached(own):
        path = Path(str(module.__file__))
        found.setdefault(path.name, []).append(_digest(path.read_bytes()))
    for root in roots:
        if getattr(root, "__module__", None) == "__main__":
            found[f"__main__.{root.__qualname__}"] = [_digest(_source(root))]
    return {name: "+".join(sorted(set(digests))) for name, digests in sorted(found.items())}


def packages(roots: Iterable[Any]) -> dict[str, str]:
    """Return the releases of the installed packages that `roots` are from, and of those always used."""
    names = {module.__name__.partition(".")[0] for root in roots if (module := _module(root)) is not None}
    names -= {"regroup", "builtins", "__main__"} | set(sys.stdlib_module_names)
    found = {name: _release(name) for name in {*_ALWAYS, *names}}
    return {
        "regroup": f"{sys.modules['regroup'].__version__} ({own_digest(PARTS)})",
        **{name: release for name, release in sorted(found.items()) if release},
    }


def canonical(value: Any, depth: int = 0) -> Any:
    """Return JSON that is equal for equal values; what has no such form is the name of its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value if not isinstance(value, enum.Enum) else str(value)
    if depth > _DEEPEST:
        return type(value).__qualname__
    inner = functools.partial(canonical, depth=depth + 1)
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(inner, value)]
    if isinstance(value, dict):
        return ["dict", *([inner(key), inner(item)] for key, item in value.items())]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted((inner(item) for item in value), key=str)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        return [type(value).__qualname__, inner(fields)]
    if isinstance(value, torch.Tensor):
        return ["tensor", str(value.dtype), list(value.shape), _digest(_bytes(value))]
    if isinstance(value, functools.partial):
        return ["partial", inner(value.func), inner(value.args), inner(value.keywords)]
    if isinstance(value, (torch.dtype, enum.Enum, complex, bytes)):
        return str(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def _bytes(value: torch.Tensor) -> bytes:
    if value.device.type == "meta":
        return b""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _module(thing: Any) -> ModuleType | None:
    if isinstance(thing, ModuleType):
        return thing
    try:
        name = getattr(thing, "__module__", None)
    except Exception:  # somebody's proxy of what is not there
        return None
    return sys.modules.get(name) if isinstance(name, str) else None


@functools.cache
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return (_HOME, *(Path(p).resolve() for name in names if (p := sysconfig.get_paths().get(name))))


def _is_own(module: ModuleType) -> bool:
    """Tell whether a module is the user's: a file that is not installed; the program itself is not."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or module.__name__ == "__main__" or not file.endswith(".py"):
        return False
    path = Path(file).resolve()
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return False
    return path.is_file() and not any(path.is_relative_to(place) for place in _installed())


def _reached(modules: list[ModuleType]) -> Iterator[ModuleType]:
    seen: set[str] = set()
    while modules:
        module = modules.pop()
        if module.__name__ in seen:
            continue
        seen.add(module.__name__)
        yield module
        named = (_module(value) for value in list(vars(module).values()))
        modules += [other for other in named if other is not None and _is_own(other)]


def _source(thing: Any) -> bytes:
    try:
        return inspect.getsource(thing).encode()
    except (OSError, TypeError):  # typed at a prompt
        codes = {n: f.__code__.co_code for n, f in vars(thing).items() if hasattr(f, "__code__")}
        return repr(codes).encode()


@functools.lru_cache(maxsize=256)
def _release(name: str) -> str:
    try:
        return version(name).partition("+")[0]  # +cpu and +cu126 are one release
    except PackageNotFoundError:
        module = sys.modules.get(name)
        return str(getattr(module, "__version__", ""))


@functools.lru_cache(maxsize=4)
def own_digest(parts: tuple[str, ...]) -> str:
    """Return a hash of files and directories of regroup itself."""
    seen = hashlib.sha256()
    for part in parts:
        path = _HOME / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            seen.update(f"{file.relative_to(_HOME).as_posix()}\0".encode() + file.read_bytes())
    return seen.hexdigest()[:8]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
