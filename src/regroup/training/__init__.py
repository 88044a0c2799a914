"""Training networks: `load_data` gives the images, `TrainConfig` says how, `train` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regroup.lazy import lazily

if TYPE_CHECKING:
    from regroup.training.checkpoint import load_weights as load_weights
    from regroup.training.checkpoint import save_weights as save_weights
    from regroup.training.config import TrainConfig as TrainConfig
    from regroup.training.data import DataSet as DataSet
    from regroup.training.data import load_data as load_data
    from regroup.training.evaluation import evaluate as evaluate
    from regroup.training.history import EpochResult as EpochResult
    from regroup.training.history import History as History
    from regroup.training.loop import train as train
    from regroup.training.tasks import Metrics as Metrics
    from regroup.training.tasks.classify import Accuracy as Accuracy

_HOME = {
    "Accuracy": "tasks.classify",
    "DataSet": "data",
    "EpochResult": "history",
    "History": "history",
    "Metrics": "tasks",
    "TrainConfig": "config",
    "evaluate": "evaluation",
    "load_data": "data",
    "load_weights": "checkpoint",
    "save_weights": "checkpoint",
    "train": "loop",
}
"""The module, below this package, that each name lives in."""

__all__ = list(_HOME)

__getattr__, __dir__ = lazily(__name__, _HOME)
