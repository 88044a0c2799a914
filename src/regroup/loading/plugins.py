"""Load strategies from files that are not installed."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from regroup.errors import ConfigError, first_line
from regroup.files.imports import run_source


def load_plugins(paths: Iterable[Path]) -> tuple[ModuleType, ...]:
    """Run each Python file, so that what it defines is registered; return the modules.

    Raises:
        ConfigError: there is no such file, or it raises an error; says in which line.
    """
    return tuple(map(_load, paths))


def _load(path: Path) -> ModuleType:
    if not path.is_file() or path.suffix != ".py":
        raise ConfigError("plugin", str(path), "a Python file that exists")
    place = hashlib.sha256(bytes(path.resolve())).hexdigest()[:8]  # two files may have one name
    name = f"regroup_plugin_{path.stem}_{place}"
    try:
        return run_source(name, path.absolute())
    except (Exception, SystemExit) as error:
        reason = f"{_line(error, path)}{type(error).__name__}: {first_line(error)}"
        raise ConfigError("plugin", str(path), "a Python file without errors", reason) from error


def _line(error: BaseException, path: Path) -> str:
    """Return the line of the file that an error comes from, to begin a message with; "" if it is unknown."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
    return f"line {lines[-1]}: " if lines else ""
