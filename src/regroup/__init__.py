"""Grouped convolution for PyTorch: choose a grouping, learn one, regroup a trained network, run it fast.

Everything public is named here and loaded when first used, so that `import regroup` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regroup.conversion.replace import replace as replace
    from regroup.errors import RegroupError as RegroupError
    from regroup.spec import ConvSpec as ConvSpec
    from regroup.spec import Cost as Cost
    from regroup.strategies import Strategy as Strategy
    from regroup.strategies import parse_strategy as parse_strategy
    from regroup.strategies import strategy as strategy

__version__ = "0.1.0.dev0"

_HOME = {
    "ConvSpec": "spec",
    "Cost": "spec",
    "RegroupError": "errors",
    "Strategy": "strategies",
    "parse_strategy": "strategies",
    "strategy": "strategies",
    "replace": "conversion.replace",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'regroup' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"regroup.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
