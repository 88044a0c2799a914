"""Load strategies from files that are not installed."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from regroup.errors import ConfigError, first_line


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
    loader = _FromSource(f"regroup_plugin_{path.stem}_{place}", str(path))
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as any import does: classes look up where they were defined
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        reason = f"{_line(error, path)}{type(error).__name__}: {first_line(error)}"
        raise ConfigError("plugin", str(path), "a Python file without errors", reason) from error
    return module


class _FromSource(SourceFileLoader):
    """Runs what the file says now.

    Python's own loader takes byte code of an earlier import for that of a file of the same size that was
    changed within the same second: the accuracy of code that is gone, under the name of the new one.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _line(error: BaseException, path: Path) -> str:
    """Return the line of the file that an error comes from, to begin a message with; "" if it is unknown."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"line {lines[-1]}: " if lines else ""
