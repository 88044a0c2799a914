"""The comparison: build, train, measure, once for each strategy, and go on where it was interrupted."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from regroup.comparison.answers import answers, kept_answers
from regroup.comparison.clusters import check_engine, files_of, results
from regroup.comparison.evidence import Evidence
from regroup.comparison.keeping import (
    LOCK,
    SetAside,
    fault_of_machine,
    home_of,
    jobs_of,
    prepare_out,
    run_directory,
    usable,
)
from regroup.comparison.pictures import correlation_of_layers, reach_of_layer
from regroup.comparison.result import Comparison, Row, Run
from regroup.comparison.settings import CompareConfig
from regroup.comparison.timing import Times, timed
from regroup.conversion.replace import Changes, Weights
from regroup.conversion.replace import replace as replace_convolutions
from regroup.errors import CheckpointError, ConfigError, RegroupError, TrainingError
from regroup.files.disk import remove_partial
from regroup.files.documents import build as build_document
from regroup.files.lock import Lock
from regroup.files.remote import address
from regroup.loading.named import read_options
from regroup.loading.named import teacher as find_teacher
from regroup.loading.plugins import load_plugins
from regroup.ops.accelerate import accelerated
from regroup.ops.counting import count
from regroup.strategies import Strategy, parse_strategy
from regroup.strategies.learning import deploy, groupings
from regroup.training import DataSet, History, load_data, train
from regroup.training.code import sources
from regroup.training.identity import Origin, digest_of_state, identify
from regroup.training.processes import find_device
from regroup.training.tasks import tasks

_T = TypeVar("_T")
Say = Callable[[str], None]
Kept = Mapping[str, str]
TIMED_BATCH = 64
"""Images in the batch that is timed; the time told is that of the batch over this number."""


def compare(
    config: CompareConfig | None = None,
    say: Say = print,
    keep: Callable[[Comparison, Path], object] | None = None,
    warn: Say | None = None,
    code: tuple[Any, ...] = (),
    **options: Any,
) -> Comparison:
    """Train one backbone with each strategy and put the results side by side.

    >>> result = compare(strategies=("grouped:groups=4",), epochs=1, out="/tmp/report", say=lambda line: None)
    >>> [row.strategy for row in result.rows]
    ['grouped:groups=4', 'dense']

    Every training has the same seeds, order of images and schedule. A strategy that fits no layer is said so
    before the first training, reported in its row, and stops nothing; nor does one that the machine could not
    train (no space, no memory): that one is tried again by the next call. What is finished below `out` is not
    done again, unless anything that decides its result has changed: see `regroup.comparison.keeping`.

    Args:
        config: what to compare.
        say: called with a line when something begins or ends.
        keep: called with the result, and the directory of this machine for the report, which is published
            below `out` where that is a URL, before the next process may work there.
        warn: called with a line that nobody may miss: that another process is waited for; None: as `say`.
        code: modules, classes and functions whose source decides the networks too, such as plugins.
        options: fields of `CompareConfig`, instead of `config`.

    Returns:
        The rows by rising MACs.

    Raises:
        ConfigError: the options cannot work.
        DataError: the data set cannot be used.
        CheckpointError, ReportError: `out` cannot be written to.
        LockedError: another comparison uses `out`, and the config says not to wait.
    """
    config = replace(config, **options) if config else CompareConfig(**options)
    check_engine(config.on)
    if config.on is None:
        find_device(config.training(0).device)  # or say why not
    with home_of(config.out, config.wait, warn or say) as home:
        prepare_out(home)
        with Lock(home / LOCK, wait=config.wait, say=warn or say):
            remove_partial(home)
            result = _compare(config, home, code, say)
            if keep is not None:
                keep(result, home)
    return result


def _compare(config: CompareConfig, home: Path, code: tuple[Any, ...], say: Say) -> Comparison:
    data = _data(config)
    for note in data.notes:
        say(f"note: {note}")
    chosen = config.chosen()
    _begun(config, data, 0, say)  # or say why not
    rows = [row for strategy in chosen if (row := _unfit(config, strategy, data, say)) is not None]
    models: dict[str, nn.Module] = {}
    fit = [strategy for strategy in chosen if strategy.label not in {row.strategy for row in rows}]
    kept, failed = kept_answers(home), {}
    if config.on is not None:
        kept, failed = _elsewhere(config, home, fit, code, say)
    job = _Job(config, data, _teacher(config, data), kept, failed)
    for i, strategy in enumerate(fit, 1):
        origin = _origin(config, strategy, code)
        tell = partial(_numbered, say, f"[{i}/{len(fit)}]")
        row, model = _tried(job, strategy, origin, tell)
        rows.append(row)
        if model is not None:
            models[row.strategy] = model
    dense_macs = next((r.macs for r in rows if r.strategy == "dense" and not r.error), 0)
    rows = [replace(r, dense_macs=dense_macs) for r in rows]
    times = _times(config, home, rows, models, data, say)
    found = Comparison(_settings(config, data), times.machine, _with_times(rows, times)).sorted()
    return replace(found, evidence=Evidence.of(found).to_json())


def _numbered(say: Say, number: str, line: str) -> None:
    say(f"{number} {line}")


@dataclass(frozen=True)
class _Job:
    """What all trainings of a comparison have in common."""

    config: CompareConfig
    data: DataSet
    teacher: nn.Module | None
    kept: Kept
    failed: Mapping[str, Row]
    """Strategies that other machines could not train."""


def _elsewhere(
    config: CompareConfig, home: Path, fit: Sequence[Strategy], code: tuple[Any, ...], say: Say
) -> tuple[Kept, dict[str, Row]]:
    """Let other machines train everything; return the networks' answers, and what could not be trained."""
    assert config.on is not None
    threads = config.cpus or torch.get_num_threads()
    common = {"config": config.elsewhere(), "plugins": files_of(code), "threads": threads}
    common["sources"] = sources(code)
    which = [(s, seed) for s in fit for seed in range(config.seeds)]
    tasks = [json.dumps({**common, "strategy": s.label, "seed": seed}) for s, seed in which]
    kept, failed = kept_answers(home), {}
    how = {"cpus": threads, "gpus": config.gpus, "folder": jobs_of(config.out)}
    for done, (number, text) in enumerate(results(config.on, work, tasks, **how), 1):
        strategy, found = which[number][0], json.loads(text)
        for line in found["said"]:
            say(f"[{done}/{len(tasks)}] {line}")
        if not found["cause"]:
            kept[found["identity"]] = found["right"]
        elif found["cause"] == "options":
            raise TrainingError(f"on another machine: {found['error']}")
        else:
            error, cause = found["error"], found["cause"]
            failed[strategy.label] = Row(strategy.label, strategy.paper, error=error, cause=cause)
    return kept, failed


def work(task: str) -> str:
    """Do one training of a comparison, on whatever machine; both texts are JSON."""
    given = json.loads(task)
    torch.set_num_threads(given["threads"])
    config = build_document(given["config"], CompareConfig)
    said: list[str] = []
    try:
        found = _worked(config, given, said.append)
    except ConfigError as error:
        return json.dumps({"said": said, "error": str(error), "cause": "options"})
    if isinstance(found, Row):
        return json.dumps({"said": said, "error": found.error, "cause": found.cause})
    return json.dumps({"said": said, "cause": "", "identity": found.identity, "right": found.right})


def _worked(config: CompareConfig, given: dict[str, Any], say: Say) -> Run | Row:
    if address(config.out) is None and not (config.out / LOCK).exists():
        remedy = f"{platform.node()} does not see it; give one that all machines share"
        raise ConfigError("out", str(config.out), "a directory of all machines", remedy)
    code = load_plugins(map(Path, given["plugins"]))
    if sources(code) != given["sources"]:
        raise ConfigError("plugin", given["plugins"], "as it was when the comparison began", "compare anew")
    strategy = parse_strategy(given["strategy"])
    data = _data(config)
    job = _Job(config, data, _teacher(config, data), {}, {})
    origin = _origin(config, strategy, code)
    return _guarded(lambda: _trained(job, strategy, origin, given["seed"], say)[2], strategy, say)


def _data(config: CompareConfig) -> DataSet:
    how = {"task": str(config.task), "bad_images": config.bad_images, "download": config.download}
    return load_data(config.data, config.image, **how)


def _teacher(config: CompareConfig, data: DataSet) -> nn.Module | None:
    if config.teacher is None:
        return None
    shape = {"num_classes": len(data.classes), "in_chans": data.shape[0]}
    return find_teacher(config.teacher, config.backbone, **shape, options=config.network(data).options)


def _begun(config: CompareConfig, data: DataSet, seed: int, say: Say | None = None) -> nn.Module:
    """Return the backbone with its first weights."""
    more = {"pretrained": config.pretrained, "weights": config.weights, "new_head": config.new_head}
    return config.network(data).build(seed=seed, **more, say=say)


def build(config: CompareConfig, strategy: Strategy, data: DataSet, seed: int) -> tuple[nn.Module, Changes]:
    """Return the backbone with the strategy in it, and what changed.

    It is freshly initialised from `seed`; or, if the config says so, it has trained weights, of which each
    strategy takes what it can.

    Raises:
        StrategyError: the strategy fits no convolution of the backbone.
        CheckpointError: the weights cannot be had or used.
    """
    model = _begun(config, data, seed)
    torch.manual_seed(seed + 1)  # so that the layers that stay begin the same for every strategy
    trained: Weights = "keep" if config.pretrained or config.weights is not None else "fresh"
    changes = replace_convolutions(model, strategy, config.where, weights=trained)
    if changes.misfit:
        raise RegroupError(changes.misfit)
    return model, changes


def _unfit(config: CompareConfig, strategy: Strategy, data: DataSet, say: Say) -> Row | None:
    """Return the row of a strategy that cannot be put into the backbone, and say so; None for all others."""
    try:
        build(config, strategy, data, 0)
    except (ConfigError, CheckpointError):
        raise
    except RegroupError as error:
        say(f"{strategy.label}: will not be run: {error}")
        return Row(strategy.label, strategy.paper, error=str(error), cause="grouping")
    return None


def _tried(job: _Job, strategy: Strategy, origin: Origin, say: Say) -> tuple[Row, nn.Module | None]:
    """Return a strategy's row and network, or the row that says why there is none."""
    if strategy.label in job.failed:
        return job.failed[strategy.label], None
    found = _guarded(lambda: _row(job, strategy, origin, say), strategy, say)
    return (found, None) if isinstance(found, Row) else found


def _guarded(attempt: Callable[[], _T], strategy: Strategy, say: Say) -> _T | Row:
    """Return what an attempt gives, or the row that says why it gives nothing."""
    try:
        return attempt()
    except ConfigError:
        raise
    except (RegroupError, OSError, MemoryError, RuntimeError) as error:
        fault = fault_of_machine(error)
        if fault is None and not isinstance(error, RegroupError):
            raise
        said = str(error) if fault is None else f"{fault} (this is not the grouping's fault: run it again)"
        say(f"{strategy.label}: not run: {said}")
        cause = "grouping" if fault is None else "machine"
        return Row(strategy.label, strategy.paper, error=said, cause=cause)


def _times(
    config: CompareConfig,
    home: Path,
    rows: list[Row],
    models: dict[str, nn.Module],
    data: DataSet,
    say: Say,
) -> Times:
    """Return the times of the networks, kept or measured; without any if they are not to be had."""
    images = torch.rand(TIMED_BATCH, *data.shape)
    if not config.time or not models:
        return Times.none(images)
    identities = {row.strategy: row.runs[0].identity for row in rows if row.strategy in models}
    try:
        return timed(home, models, identities, images, say, anew=config.retime)
    except (OSError, MemoryError, RuntimeError) as error:
        if (fault := fault_of_machine(error)) is None:
            raise
        say(f"not timed: {fault}")
        return Times.none(images)


def _with_times(rows: list[Row], times: Times) -> list[Row]:
    found = {row.strategy: times.networks.get(row.runs[0].identity, {}) for row in rows if row.runs}
    dense = found.get("dense", {})
    return [
        replace(row, times=found[row.strategy], dense_times=dense) if found.get(row.strategy) else row
        for row in rows
    ]


def _row(job: _Job, strategy: Strategy, origin: Origin, say: Say) -> tuple[Row, nn.Module]:
    """Train a strategy with every seed; return its row, and the network of the first seed as deployed."""
    config, data = job.config, job.data
    trained = [_trained(job, strategy, origin, seed, say) for seed in range(config.seeds)]
    model, changes, _ = trained[0]
    if config.pretrained or config.weights is not None:
        say(f"{strategy.label}: {str(changes).splitlines()[-1]}")
    plain = deploy(model)
    cost, learned = count(plain, data.shape[1:], data.shape[0]), groupings(model)
    row = Row(
        strategy.label,
        strategy.paper,
        cost.parameters,
        cost.macs,
        runs=[run for _, _, run in trained],
        reach=reach_of_layer(strategy, config.network(data), learned),
        correlation=correlation_of_layers(plain, changes.replaced, data),
        replaced=len(changes.replaced),
        left=changes.unfit,
        learned=learned,
    )
    return row, plain


def _trained(
    job: _Job, strategy: Strategy, origin: Origin, seed: int, say: Say
) -> tuple[nn.Module, Changes, Run]:
    """Train a strategy with one seed, or take up what is kept of that; where it is of no use, begin anew."""
    config, data = job.config, job.data
    start, training = time.monotonic(), config.training(seed)

    def note(line: str) -> None:
        say(f"{strategy.label}: {line}")

    def attempt() -> tuple[nn.Module, Changes, History, str]:
        model, changes = build(config, strategy, data, seed)
        more = {"teacher": job.teacher, "origin": _with_weights(config, origin, model)}
        with accelerated(model) if config.accelerate else nullcontext():
            identity = identify(model, data, training, **more)
            output = run_directory(config.out, strategy.label, seed, identity, note)
            with usable(output, note):
                history = train(model, data, replace(training, output=output), **more)
        return model, changes, history, identity.digest

    try:
        model, changes, history, digest = attempt()
    except SetAside:
        model, changes, history, digest = attempt()
    seconds = sum(epoch.seconds for epoch in history.epochs)
    names = {"train_loss": "train_loss", "test_loss": "test_loss", "test_accuracy": "score"}
    curves = {ours: [getattr(e, theirs) for e in history.epochs] for ours, theirs in names.items()}
    curves = {name: values for name, values in curves.items() if None not in values}
    score, right = history.last.score, answers(model, data, training, digest, job.kept)
    note(f"seed {seed}: {score:.2f} % in {time.monotonic() - start:.1f} s")
    return model.cpu(), changes, Run(seed, score, seconds, curves, digest, right)


def _origin(config: CompareConfig, strategy: Strategy, code: tuple[Any, ...]) -> Origin:
    said: dict[str, Any] = {"model": config.backbone, "strategy": strategy.label, "where": config.where}
    options = read_options("model_options", config.model_options)
    said |= {f"option {name}": value for name, value in options.items()}
    said["pretrained"] = config.pretrained
    return Origin(said=said, code=(type(strategy), *code))


def _with_weights(config: CompareConfig, origin: Origin, model: nn.Module) -> Origin:
    """Return where a network comes from, with its first weights if they come from elsewhere than its seed."""
    if not config.pretrained and config.weights is None:
        return origin
    return replace(origin, weights=digest_of_state(model))


def _settings(config: CompareConfig, data: DataSet) -> dict[str, Any]:
    settings = config.to_json()
    for name in ("wait", "retime", "all", "on", "cpus", "gpus"):  # nothing of what was found depends on them
        del settings[name]
    settings["strategies"] = list(config.strategies)
    settings["seeds"] = list(range(config.seeds))
    settings["shape"] = list(data.shape)
    settings["images"] = {"train": len(data.train), "test": len(data.test)}
    settings["timed_batch"] = TIMED_BATCH
    settings["measure"] = tasks[data.task].measure
    return settings
