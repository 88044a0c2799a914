"""Python files that are run from what they say, and not from what Python kept of them.

>>> Path("/tmp/double.py").write_text("factor = 2")
10
>>> module = run_source("double_of_mine", Path("/tmp/double.py"))
>>> module.factor, module.__spec__.loader.source
(2, b'factor = 2')
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

_HOME = Path(__file__).parents[1]


class FromSource(SourceFileLoader):
    """Runs what the file says now, and keeps what that was.

    Python's own loader takes byte code of an earlier import for that of a file of the same size that was
    changed within the same second: the accuracy of code that is gone, under the name of the new one.
    """

    source = b""
    """What the file said when it was run."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        self.source = self.get_data(path)
        return self.source_to_code(self.source, path)


class _Finder(MetaPathFinder):
    """Finds modules where Python's finder would, and has the user's own run from their source."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or is_installed(Path(str(spec.origin))):
            return None  # Python's finder comes next
        spec.loader, spec.cached = FromSource(name, str(spec.origin)), None
        return spec


FINDER = _Finder()


def run_source(name: str, path: Path) -> ModuleType:
    """Run a file as a module of that name, and whatever it imports of the user's, now or later, likewise.

    Raises:
        Exception: whatever the file raises; the module is then not there.
    """
    if FINDER not in sys.meta_path:
        at = [i for i, finder in enumerate(sys.meta_path) if finder is PathFinder]
        sys.meta_path.insert(at[0] if at else len(sys.meta_path), FINDER)  # those of others come first
    loader = FromSource(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as any import does: classes look up where they were defined
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def is_installed(path: Path) -> bool:
    """Tell whether a file belongs to Python, to an installed package or to regroup, and not to the user."""
    path = path.resolve()
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return True
    return any(path.is_relative_to(place) for place in _places())


@functools.cache
def _places() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return (_HOME, *(Path(p).resolve() for name in names if (p := sysconfig.get_paths().get(name))))
