"""Load strategies from files that are not installed."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Iterable
from pathlib import Path

from regroup.errors import ConfigError, first_line


def load_plugins(paths: Iterable[Path]) -> None:
    """Run each Python file, so that the strategies and networks it defines are registered.

    Raises:
        ConfigError: there is no such file, or it raises an error; says in which line.
    """
    for path in paths:
        if not path.is_file() or path.suffix != ".py":
            raise ConfigError("plugin", str(path), "a Python file that exists")
        spec = importlib.util.spec_from_file_location(f"regroup_plugin_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        try:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        except (Exception, SystemExit) as error:
            reason = f"{_line(error, path)}{type(error).__name__}: {first_line(error)}"
            raise ConfigError("plugin", str(path), "a Python file without errors", reason) from error


def _line(error: BaseException, path: Path) -> str:
    """Return the line of the file that an error comes from, to begin a message with; "" if it is unknown."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"line {lines[-1]}: " if lines else ""
