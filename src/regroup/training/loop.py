"""Training: epochs of steps, a test after each, a checkpoint after that. Read it from top to bottom.

>>> from regroup.training import TrainConfig, load_data, train
>>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
>>> history = train(model, load_data("digits"), TrainConfig(epochs=2, lr=0.05, display="quiet"))
>>> history.last.figures["top1"] > 80
True

Everything random in a step is a function of (seed, step, part of the images), so a run that was killed at any
moment and resumed ends in the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import nn

from regroup.errors import TrainingError
from regroup.files.staging import told
from regroup.ops.accelerate import accelerated
from regroup.parallel.state import shared, unshard
from regroup.strategies.learning import set_progress
from regroup.training.checkpoint import list_checkpoints
from regroup.training.config import TrainConfig
from regroup.training.data import Batch, DataSet
from regroup.training.data.randomness import seeded
from regroup.training.devices import Devices
from regroup.training.directory import LOG
from regroup.training.evaluation import evaluate
from regroup.training.history import EpochResult, History
from regroup.training.identity import Origin
from regroup.training.interruption import Interruption, leave
from regroup.training.loggers import JsonLines, Logger, Loggers, TensorBoard
from regroup.training.optimisation import share_of_start
from regroup.training.placing import placed
from regroup.training.processes import joined
from regroup.training.progress import display, warn
from regroup.training.run import Run
from regroup.training.sharing import check_sharing, clip_norm
from regroup.training.tasks import Metrics, task_of

_LARGE_SHARE = 0.05  # of a moving average that is still its beginning


def train(
    model: nn.Module,
    data: DataSet,
    config: TrainConfig | None = None,
    *,
    teacher: nn.Module | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
    origin: Origin | None = None,
    wait: bool = True,
    accelerate: bool = False,
) -> History:
    """Train `model` in place and return how it went. Under `torchrun`, train it with the other processes.

    Afterwards the model is in eval mode, on the device of the config, and has the averaged weights if
    `model_ema` is on. SIGTERM, SIGINT (ctrl-C) and SIGHUP save a checkpoint and leave; a second one leaves at
    once. Where the config names an output directory, that is this run's alone: it is locked, and what it
    holds of another run (see `regroup.training.identity`) is an error that says in what they differ.

    Args:
        model: images (N, channels, height, width) -> what the task of the data wants: scores (N, classes).
        data: what to train on and to test with.
        config: how to train; None: the defaults.
        teacher: a trained network of the same input and output to learn from too (distillation).
        on_epoch: called after each epoch, in every process.
        origin: where the model comes from, for the run's identity and for what is written beside its weights.
        wait: for another process that uses the output directory; else that is an error.
        accelerate: train narrow groups by regroup's own kernels, as `regroup.accelerate` does: another run.

    Raises:
        ConfigError: model, data and config do not fit, or not the run to resume.
        DataError: an image cannot be read.
        CheckpointError: a checkpoint is damaged, of another model, or cannot be written.
        TrainingError: the loss is no longer a number.
        KeyboardInterrupt: on SIGINT, after a checkpoint.
        LockedError: another process uses the output directory, and `wait` is false.
        SystemExit: on SIGTERM or SIGHUP, after a checkpoint; the code is 143 or 129.
    """
    config = config or TrainConfig()
    check_sharing(config, task_of(data), accelerate)
    kernels = accelerated(model) if accelerate else nullcontext()
    devices = None if config.devices is None else Devices.of(config.devices)
    team = joined(config.device, devices)
    with (
        kernels,
        Interruption() as interruption,
        team as processes,
        placed(config, processes, wait, warn, partial(_leave_at, interruption)) as config,
        seeded(config.seed),
    ):
        run = Run(model, data, config, teacher, processes, origin)
        run.prepare_output()
        with (
            _logging(run) as log,
            run.lock(wait, warn if config.display == "quiet" else log.note) as locked,
        ):
            while not locked():
                _leave_if_told(run, interruption)
            _begin(run, log)
            while len(run.history.epochs) < config.epochs:
                _epoch(run, interruption, log)
                if on_epoch is not None:
                    on_epoch(run.history.last)
            run.publish_weights()
        if run.ema is not None:
            model.load_state_dict(run.ema.module.state_dict())
        unshard(model)
        model.eval()
        return run.history


def _begin(run: Run, log: Loggers) -> None:
    """Go on from where the run was, or from the beginning, and say so."""
    for note in (*run.data.notes, *run.resume()):
        log.note(told(note))
    output, total = run.config.output, run.config.epochs * run.steps_per_epoch
    if run.directory is not None:
        log.add(partial(JsonLines, run.directory.path / LOG, run.directory.record.digest))
    if run.processes.first and run.config.log_tensorboard:
        assert output is not None
        log.add(partial(TensorBoard, output))
    if run.ema is not None and (share := share_of_start(run.ema, total)) > _LARGE_SHARE:
        log.note(
            f"after all {total} steps the moving average will still be {100 * share:.0f} % what it began "
            "with: leave model_ema_warmup on, or lower model_ema_decay"
        )
    log.begin(run.steps_per_epoch, run.config.epochs, run.history)


def _epoch(run: Run, interruption: Interruption, log: Logger) -> None:
    """Train for what is left of an epoch, test, and write down what came out."""
    seconds, images = _train_epoch(run, interruption, log)
    counts = _test(run, run.evaluated, interruption)
    plain = None if run.ema is None else _test(run, run.model, interruption)
    result = _result(run, counts, plain, seconds, images)
    run.history.epochs.append(result)
    run.begin_epoch()
    _save(run)
    run.publish_best()
    log.epoch(result)


def _train_epoch(run: Run, interruption: Interruption, log: Logger) -> tuple[float, int]:
    """Do the steps that are left of the running epoch; return the seconds and the images that it took."""
    config, loader, epoch = run.config, run.train_loader, len(run.history.epochs)
    look = 1 if run.device.type == "cpu" else config.log_interval
    begun = done = run.step - epoch * run.steps_per_epoch
    batches = loader.batches(epoch, start=done * config.grad_accum_steps * loader.step)
    run.model.train()
    start = time.perf_counter()
    while done < run.steps_per_epoch:
        _reseed(run)
        run.set_progress()
        run.schedule_lr()
        _step(run, islice(batches, config.grad_accum_steps))
        done += 1
        if done % look == 0 or done == run.steps_per_epoch:
            log.step(epoch + 1, done, _checked_loss(run))
        if config.recovery_interval and done % config.recovery_interval == 0 and done < run.steps_per_epoch:
            _save(run)
        _heed(run, interruption)
    return time.perf_counter() - start, (done - begun) * config.grad_accum_steps * loader.step


def _step(run: Run, batches: Iterator[Batch]) -> None:
    """Do one step of the optimiser with the gradients of `grad_accum_steps` batches."""
    parts = run.config.grad_accum_steps
    for part, batch in enumerate(batches, start=1):
        with _unsynchronised(run.wrapped) if part < parts else nullcontext():
            with run.autocast():
                loss = run.loss(batch)
            if parts > 1:
                loss = loss / parts
            run.scaler.scale(loss).backward()
        run.epoch_loss += loss.detach()
    _clip(run)
    run.update_weights()
    run.optimizer.zero_grad()
    run.step += 1
    if run.ema is not None:
        run.ema.update(run.model, step=run.step)


def _test(run: Run, model: nn.Module, interruption: Interruption) -> Metrics:
    """Return the metrics of the run's model or its average, over the test images of all processes."""
    run.processes.share_buffers(run.model)
    run.processes.share_buffers(model)
    set_progress(model, run.progress)
    with run.autocast():
        metrics = evaluate(
            model,
            _watched(run, interruption),
            channels_last=run.config.channels_last,
            total=run.processes.sum,
            data=run.data,
        )
    if metrics.loss is not None and not math.isfinite(metrics.loss):
        raise TrainingError(f"the test loss became {metrics.loss} after step {run.step}; {_advice(run)}")
    return metrics


def _watched(run: Run, interruption: Interruption) -> Iterator[Batch]:
    batches = iter(run.test_loader)
    for _ in range(len(run.test_loader)):  # all processes vote as often, whoever has a batch less
        _heed(run, interruption)
        batch = next(batches, None)
        if batch is not None:
            yield batch


def _heed(run: Run, interruption: Interruption) -> None:
    """Save and leave if any process was told to."""
    number = run.processes.vote(interruption.signal)
    if number:
        _save(run)
        leave(number)


def _leave_at(interruption: Interruption) -> None:
    """Leave if this process was told to."""
    if interruption.signal:
        leave(interruption.signal)


def _leave_if_told(run: Run, interruption: Interruption) -> None:
    """Leave if any process was told to, before there is anything to save."""
    if number := run.processes.vote(interruption.signal):
        leave(number)


def _save(run: Run) -> None:
    """Write a checkpoint, unless that would replace good weights by useless ones."""
    _checked_loss(run)
    infinite = not all(bool(parameter.isfinite().all()) for parameter in run.model.parameters())
    if run.processes.any(infinite):
        raise TrainingError(f"weights are no longer finite after step {run.step}; {_advice(run)}")
    run.save()


def _checked_loss(run: Run) -> float:
    """Return the epoch's mean loss so far, which is a number or the end of training."""
    loss = run.mean_loss()
    if not math.isfinite(loss):
        epoch = len(run.history.epochs) + 1
        raise TrainingError(f"the loss became {loss} in epoch {epoch}, by step {run.step}; {_advice(run)}")
    return loss


def _advice(run: Run) -> str:
    output = run.config.output
    saved = f"; the checkpoints in {output} are good" if output and list_checkpoints(output) else ""
    return f"try a lower lr than {run.config.lr:g}, a warmup or clip_grad{saved}"


def _clip(run: Run) -> None:
    if run.config.clip_grad is None:
        return
    from timm.utils import dispatch_clip_grad

    run.scaler.unscale_(run.optimizer)
    if shared(run.model) and run.config.clip_mode == "norm":
        clip_norm(run.model, run.config.clip_grad)
        return
    dispatch_clip_grad(run.model.parameters(), run.config.clip_grad, mode=run.config.clip_mode)


def _result(run: Run, metrics: Metrics, plain: Metrics | None, seconds: float, images: int) -> EpochResult:
    epoch_loss = float(run.processes.sum(run.epoch_loss))
    return EpochResult(
        epoch=len(run.history.epochs) + 1,
        step=run.step,
        lr=run.optimizer.param_groups[0]["lr"],
        train_loss=epoch_loss / (run.steps_per_epoch * run.processes.parts),
        test_loss=metrics.loss,
        figures=metrics.figures,
        seconds=seconds,
        images_per_second=images / seconds,
        plain_loss=None if plain is None else plain.loss,
        plain_figures=None if plain is None else plain.figures,
    )


def _unsynchronised(module: nn.Module) -> AbstractContextManager:
    """Return a context in which backward leaves each process its own gradients."""
    return module.no_sync() if isinstance(module, nn.parallel.DistributedDataParallel) else nullcontext()


def _reseed(run: Run) -> None:
    """Make what is random in the next step, such as dropout, a function of seed, step and part."""
    random.seed(f"{run.config.seed} {run.step} {run.processes.part}")
    bits = random.getrandbits(63)
    np.random.seed(bits & 0xFFFFFFFF)
    torch.default_generator.manual_seed(bits)  # torch.manual_seed takes fifty times as long
    if run.device.type == "cuda":
        torch.cuda.manual_seed(bits)


@contextmanager
def _logging(run: Run) -> Iterator[Loggers]:
    log = Loggers(display(run.config.display) if run.processes.first else [])
    try:
        yield log
    finally:
        log.end()
