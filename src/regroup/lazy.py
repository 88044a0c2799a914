"""Names of a package that are loaded when they are first used, so that importing the package stays light.

In the package's `__init__.py`, beside the same imports under `if TYPE_CHECKING:` for type checkers:

    __getattr__, __dir__ = lazily(__name__, {"ConvSpec": "spec"})
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

BEGAN = time.time()
"""When the package was imported: what is changed in it later may be another than is loaded."""


def later(module: str, name: str) -> Callable[..., Any]:
    """Return a function that is looked up when it is called, whatever floor it is on.

    For what a notebook asks an object itself and somebody above answers: its picture.

    >>> later("math", "sqrt")(9.0)
    3.0
    """

    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **named)

    return call


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: its name.
        homes: the module, below the package, that each name lives in.
    """
    names = vars(sys.modules[package])

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        names[name] = value
        return value

    return load, lambda: sorted({*names, *homes})
