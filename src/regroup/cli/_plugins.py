"""Load strategies from files that are not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from regroup.errors import ConfigError


def load_plugins(paths: Iterable[Path]) -> None:
    """Run each Python file, so that the strategies and networks it defines are registered.

    Raises:
        ConfigError: there is no such file.
    """
    for path in paths:
        if not path.is_file() or path.suffix != ".py":
            raise ConfigError("plugin", str(path), "a Python file that exists")
        spec = importlib.util.spec_from_file_location(f"regroup_plugin_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
