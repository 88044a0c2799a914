"""The comparison: build, train, measure, once for each strategy, and go on where it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regroup.comparison.pictures import correlation_of_layers, reach_of_layer
from regroup.comparison.result import Comparison, Row, Run
from regroup.comparison.settings import CompareConfig
from regroup.comparison.timing import timed
from regroup.conversion.replace import Changes
from regroup.conversion.replace import replace as replace_convolutions
from regroup.errors import ConfigError, RegroupError
from regroup.networks.anywhere import create_any_model
from regroup.ops.counting import count
from regroup.profiling.machine import machine
from regroup.strategies import Strategy
from regroup.strategies.learning import deploy, groupings
from regroup.training import DataSet, TrainConfig, load_data, train

Say = Callable[[str], None]
TIMED_BATCH = 64
"""Images in the batch that is timed; the time told is that of the batch over this number."""


def compare(config: CompareConfig | None = None, say: Say = print, **options: Any) -> Comparison:
    """Train one backbone with each strategy and put the results side by side.

    >>> result = compare(strategies=("grouped:groups=4",), epochs=1, out="/tmp/report", say=lambda line: None)
    >>> [row.strategy for row in result.rows]
    ['grouped:groups=4', 'dense']

    Every training has the same seeds, order of images and schedule. A strategy that cannot be built is
    reported in its row and stops nothing. What is finished below `out` is not done again.

    Args:
        config: what to compare.
        say: called with a line when something begins or ends.
        options: fields of `CompareConfig`, instead of `config`.

    Returns:
        The rows by rising MACs.

    Raises:
        ConfigError: the options cannot work.
        DataError: the data set cannot be used.
    """
    config = replace(config, **options) if config else CompareConfig(**options)
    data = load_data(config.data, config.image, bad_images=config.bad_images)
    for note in data.notes:
        say(f"note: {note}")
    chosen = config.chosen()
    create_any_model(config.backbone, num_classes=len(data.classes), in_chans=data.shape[0])  # or say why not
    rows, models = [], {}
    for i, strategy in enumerate(chosen, 1):
        try:
            row, model = _row(config, strategy, data, lambda line, i=i: say(f"[{i}/{len(chosen)}] {line}"))
        except ConfigError:
            raise
        except RegroupError as error:
            row, model = Row(strategy.label, strategy.paper, error=str(error)), None
            say(f"[{i}/{len(chosen)}] {strategy.label}: not run: {error}")
        rows.append(row)
        if model is not None:
            models[row.strategy] = model
    dense_macs = next((r.macs for r in rows if r.strategy == "dense" and not r.error), 0)
    rows = [replace(r, dense_macs=dense_macs) for r in rows]
    if config.time and models:
        rows = timed(rows, models, torch.rand(TIMED_BATCH, *data.shape), say)
    return Comparison(_settings(config, data), _machine(), rows).sorted()


def build(config: CompareConfig, strategy: Strategy, data: DataSet, seed: int) -> tuple[nn.Module, Changes]:
    """Return the backbone with the strategy in it, freshly initialised from `seed`, and what changed.

    Raises:
        StrategyError: the strategy fits no convolution of the backbone.
    """
    torch.manual_seed(seed)
    model = create_any_model(config.backbone, num_classes=len(data.classes), in_chans=data.shape[0])
    torch.manual_seed(seed + 1)  # so that the layers that stay begin the same for every strategy
    changes = replace_convolutions(model, strategy, config.where)
    if not changes.replaced:
        reasons = sorted({reason for reason in changes.left.values() if reason != "not chosen by where"})
        raise RegroupError(f"fits none of the layers: {'; '.join(reasons)}")
    return model, changes


def _row(config: CompareConfig, strategy: Strategy, data: DataSet, say: Say) -> tuple[Row, nn.Module]:
    """Train a strategy with every seed; return its row, and the network of the first seed as deployed."""
    runs: list[Run] = []
    trained = []
    for seed in range(config.seeds):
        model, changes = build(config, strategy, data, seed)
        start = time.monotonic()
        history = train(model, data, _training(config, strategy, seed))
        result = history.last
        seconds = sum(epoch.seconds for epoch in history.epochs)
        names = {"train_loss": "train_loss", "test_loss": "test_loss", "test_accuracy": "top1"}
        curves = {ours: [getattr(e, theirs) for e in history.epochs] for ours, theirs in names.items()}
        runs.append(Run(seed, result.top1, seconds, curves))
        say(f"{strategy.label}: seed {seed}: {result.top1:.2f} % in {time.monotonic() - start:.1f} s")
        trained.append((model, changes))
    model, changes = trained[0]
    plain = deploy(model)
    cost, learned = count(plain, data.shape[1:], data.shape[0]), groupings(model)
    row = Row(
        strategy.label,
        strategy.paper,
        cost.parameters,
        cost.macs,
        runs=runs,
        reach=reach_of_layer(strategy, config.backbone, data, learned),
        correlation=correlation_of_layers(plain, changes.replaced, data),
        replaced=len(changes.replaced),
        left={name: why for name, why in changes.left.items() if why != "not chosen by where"},
        learned=learned,
    )
    return row, plain


def _training(config: CompareConfig, strategy: Strategy, seed: int) -> TrainConfig:
    safe = "".join(c if c.isalnum() else "-" for c in strategy.label)
    return TrainConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        opt=config.opt,
        lr=config.lr,
        weight_decay=config.weight_decay,
        warmup_epochs=min(1.0, config.epochs / 2),
        seed=seed,
        output=config.out / "runs" / config.training_key() / safe / f"seed{seed}",
        resume=True,
        checkpoint_hist=1,
        display="quiet",
    )


def _settings(config: CompareConfig, data: DataSet) -> dict[str, Any]:
    settings: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
    settings["strategies"] = list(config.strategies)
    settings["seeds"] = list(range(config.seeds))
    settings["shape"] = list(data.shape)
    settings["images"] = {"train": len(data.train), "test": len(data.test)}
    settings["timed_batch"] = TIMED_BATCH
    return settings


def _machine() -> dict[str, Any]:
    return {**machine().to_dict(), "date": time.strftime("%Y-%m-%d")}
