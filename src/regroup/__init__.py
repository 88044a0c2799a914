"""Grouped convolution for PyTorch: choose a grouping, learn one, regroup a trained network, run it fast.

Everything public is named here and loaded when first used, so that `import regroup` stays light.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from regroup.lazy import lazily

if TYPE_CHECKING:
    from regroup.aot.export import export_object as export_object
    from regroup.comparison.runner import compare as compare
    from regroup.conversion.convert import convert as convert
    from regroup.conversion.folding import fold_orders as fold_orders
    from regroup.conversion.packed import load_packed as load_packed
    from regroup.conversion.packed import save_packed as save_packed
    from regroup.conversion.quantise import quantise as quantise
    from regroup.conversion.replace import replace as replace
    from regroup.conversion.tying import reorder as reorder
    from regroup.conversion.tying import tied_sets as tied_sets
    from regroup.engine.running.compiled import compile as compile
    from regroup.errors import RegroupError as RegroupError
    from regroup.exporting import export as export
    from regroup.loading import load as load
    from regroup.loading import loaded as loaded
    from regroup.networks import create_model as create_model
    from regroup.networks import list_models as list_models
    from regroup.ops.accelerate import accelerate as accelerate
    from regroup.ops.accelerate import decelerate as decelerate
    from regroup.ops.explain import explain as explain
    from regroup.profiling.profile import profile as profile
    from regroup.report.draw import draw as draw
    from regroup.spec import ConvSpec as ConvSpec
    from regroup.spec import Cost as Cost
    from regroup.strategies import Strategy as Strategy
    from regroup.strategies import parse_strategy as parse_strategy
    from regroup.strategies import strategy as strategy
    from regroup.strategies.learning import deploy as deploy
    from regroup.strategies.learning import groupings as groupings
    from regroup.strategies.learning import load_groupings as load_groupings
    from regroup.strategies.learning import penalty as penalty
    from regroup.strategies.learning import set_progress as set_progress
    from regroup.testing import check_strategy as check_strategy
    from regroup.training import TrainConfig as TrainConfig
    from regroup.training import evaluate as evaluate
    from regroup.training import load_data as load_data
    from regroup.training import train as train

__version__ = "0.1.0.dev0"

_HOME = {
    "ConvSpec": "spec",
    "Cost": "spec",
    "RegroupError": "errors",
    "Strategy": "strategies",
    "TrainConfig": "training",
    "accelerate": "ops.accelerate",
    "check_strategy": "testing",
    "compare": "comparison.runner",
    "compile": "engine.running.compiled",
    "convert": "conversion.convert",
    "create_model": "networks",
    "decelerate": "ops.accelerate",
    "deploy": "strategies.learning",
    "draw": "report.draw",
    "evaluate": "training",
    "explain": "ops.explain",
    "export": "exporting",
    "fold_orders": "conversion.folding",
    "export_object": "aot.export",
    "groupings": "strategies.learning",
    "list_models": "networks",
    "load": "loading",
    "load_data": "training",
    "load_groupings": "strategies.learning",
    "load_packed": "conversion.packed",
    "loaded": "loading",
    "parse_strategy": "strategies",
    "penalty": "strategies.learning",
    "profile": "profiling.profile",
    "quantise": "conversion.quantise",
    "reorder": "conversion.tying",
    "replace": "conversion.replace",
    "save_packed": "conversion.packed",
    "set_progress": "strategies.learning",
    "strategy": "strategies",
    "tied_sets": "conversion.tying",
    "train": "training",
}
"""The module, below this package, that each public name lives in."""

__all__ = ["__version__", *_HOME]

__getattr__, __dir__ = lazily(__name__, _HOME)

_FOREIGN = ("cluster.py", "relax.py", "tokenizer.py")
"""Files of the other package of this import name, the tokenizer `regroup` 0.1."""


def _warn_of_foreign_files() -> None:
    """Say that the other package's files lie among ours: whoever removes it removes ours with it."""
    here = os.path.dirname(__file__)  # noqa: PTH120 (pathlib takes longer to import than all of this)
    if any(os.path.exists(f"{here}/{name}") for name in _FOREIGN):  # noqa: PTH110
        import warnings

        advice = "run `pip uninstall regroup`, then `pip install --force-reinstall torch-regroup`"
        warnings.warn(
            f"the files of another package, regroup (a tokenizer), lie in {here}: {advice}",
            RuntimeWarning,
            stacklevel=2,
        )


_warn_of_foreign_files()


def _warn_without_lock() -> None:
    """Say that nothing here has been tried in a Python whose threads run at once."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        import warnings

        warnings.warn(
            "this Python has no global lock, and regroup relies on one: set PYTHON_GIL=1",
            RuntimeWarning,
            stacklevel=2,
        )


_warn_without_lock()
