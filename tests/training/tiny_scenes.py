"""Scenes, a backbone and settings, all tiny, for tests of tasks that look for something in images."""

from functools import partial

import pytest

from regroup.training import TrainConfig
from regroup.training.data import data_sets
from regroup.training.data.scenes import scenes

TINY = {"depths": [1, 1, 1], "widths": [8, 8, 16]}


def small(image=None, *, task):
    return scenes(image or (32, 32), task=task, count=16, classes="AB", most=2)


def registered(task):
    """Return a fixture: while a test runs, `small_scenes` is a data set of that task by default."""

    @pytest.fixture(autouse=True)
    def with_small_scenes():
        data_sets._items["small_scenes"] = partial(small, task=task)
        yield
        del data_sets._items["small_scenes"]

    return with_small_scenes


def config(**changes):
    common = {"epochs": 3, "batch_size": 8, "opt": "adamw", "lr": 2e-3, "device": "cpu", "display": "quiet"}
    return TrainConfig(**{**common, **changes})
