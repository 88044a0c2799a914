"""TrainConfig: what is wrong is said by name, and JSON gives it back."""

import math
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regroup.comparison.settings import CompareConfig
from regroup.errors import ConfigError
from regroup.training import TrainConfig
from regroup.training.recipe import Recipe
from tests.training.test_identity import OTHER

WRONG = {
    "epochs": [0, -1, 1.5, True, "3"],
    "batch_size": [0, None],
    "grad_accum_steps": [0],
    "lr": [0, -0.1, math.nan, math.inf, "big"],
    "momentum": [1.0, -0.1],
    "weight_decay": [-1e-4],
    "sched": ["plateau", "cosin", ""],
    "warmup_epochs": [-1, 11],
    "smoothing": [1.0],
    "mixup": [-1],
    "clip_grad": [0, -1],
    "clip_mode": ["norms"],
    "model_ema_decay": [1.0],
    "distillation_alpha": [1.1, -0.1],
    "distillation_temperature": [0],
    "amp_dtype": ["float32"],
    "seed": [-1, 0.5],
    "workers": [-1],
    "checkpoint_hist": [0],
    "display": ["loud"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_an_error_that_names_the_field(name, value):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{name: value})
    assert caught.value.parameter == name and caught.value.allowed


@given(
    epochs=st.integers(1, 10**6),
    lr=st.floats(1e-12, 1e3),
    sched=st.sampled_from(["cosine", "step", "none"]),
    decay_milestones=st.lists(st.integers(1, 99)).map(tuple),
    output=st.none() | st.just(Path("runs/a")),
    clip_grad=st.none() | st.floats(0.1, 5),
)
def test_json_gives_the_config_back(**values):
    config = TrainConfig(**values)
    assert TrainConfig.from_json(config.to_json()) == config


def test_a_field_of_another_version_is_named():
    with pytest.raises(ConfigError, match="opt_eps"):
        TrainConfig.from_json({**TrainConfig().to_json(), "opt_eps": 1e-8})


def test_the_config_stays_small():
    assert len(fields(TrainConfig)) <= 40


def test_what_only_concerns_how_a_run_looks_does_not_decide_its_result():
    quiet = TrainConfig(display="quiet", output=Path("a"), resume=True, workers=3, recovery_interval=5)
    assert quiet.result() == TrainConfig().result()
    assert TrainConfig(lr=0.2).result() != TrainConfig().result()


def test_what_decides_weights_is_the_recipe_and_the_seed_and_a_comparison_has_all_of_it():
    recipe = {field.name for field in fields(Recipe)}
    assert TrainConfig().result().keys() == recipe | {"seed"}
    others = {name: value for name, value in OTHER.items() if name in recipe}
    trained = CompareConfig(**others).training(seed=1).result()
    assert trained == TrainConfig(**OTHER).result()
