"""A run: all that a step of training needs, made from a model, data and a config, and its saved state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regroup.errors import CheckpointError, ConfigError, first_line
from regroup.files.lock import Lock
from regroup.parallel.state import gathered, gathered_optimizer, scattered, scattered_optimizer
from regroup.strategies.learning import learned_modules, penalty, set_progress
from regroup.training.checkpoint import latest_valid, load_checkpoint, load_state
from regroup.training.config import TrainConfig
from regroup.training.data import Augmentation, Batch, DataSet, Loader
from regroup.training.directory import (
    BEST,
    LOCK,
    WEIGHTS,
    Plan,
    RunDirectory,
    check_room,
    prepare,
)
from regroup.training.history import History, Progress
from regroup.training.identity import Identity, Origin, identify
from regroup.training.optimisation import make_average, make_optimizer, make_schedule
from regroup.training.processes import Processes
from regroup.training.tasks import Task, task_of


class Run:
    """One training run. `model` is trained in place.

    Attributes:
        step: steps done since the beginning.
        epoch_loss: sum of the losses of the running epoch's steps, of this process; stays on the device.
        history: results of the epochs that are over.
        identity: what makes this run the run that it is; None where nothing is kept.
        directory: where it is kept, once `resume` has been called; None in all processes but the first.

    Raises:
        ConfigError: the model does not fit the data, or the config does not fit either.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        config: TrainConfig,
        teacher: nn.Module | None,
        processes: Processes,
        origin: Origin | None = None,
    ) -> None:
        self.config, self.data, self.processes = config, data, processes
        self.origin, self.task = origin or Origin(), task_of(data)
        self.task.check_config(config, teacher)
        self.identity: Identity | None = None
        if config.output is not None and processes.first:
            known = {"teacher": teacher, "processes": processes.parts, "origin": self.origin}
            self.identity = identify(model, data, config, **known)
        self.device = processes.device
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.teacher = None if teacher is None else teacher.to(self.device).eval()
        self.train_loader, self.test_loader = self._loader(train=True), self._loader(train=False)
        self.steps_per_epoch = len(self.train_loader) // config.grad_accum_steps
        self._check_fit()
        self.learns = bool(learned_modules(model))
        self._sizes = _bytes(model.state_dict().values()), _bytes(model.parameters())
        processes.share(model, torch.empty(config.batch_size, *data.shape, device="meta"))
        self.wrapped = processes.wrap(model)
        self.optimizer = make_optimizer(model, config)
        scaled = config.amp and config.amp_dtype == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.ema = make_average(model, config)
        self.step = 0
        self.plans: tuple[Plan, ...] = ((0, config.epochs),)
        self._make_schedules()
        self.epoch_loss = self._zero()
        self.history = History([])
        self.directory: RunDirectory | None = None
        self._resumed_from: Path | None = None  # until a step has been done

    @property
    def evaluated(self) -> nn.Module:
        """The module whose score counts: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def progress(self) -> float:
        """Share of training that is done, as learned groupings see it: epochs given later do not count."""
        return min(1.0, self.step / (self.plans[0][1] * self.steps_per_epoch))

    def autocast(self) -> AbstractContextManager:
        """Return the context in which forward passes run."""
        if not self.config.amp:
            return nullcontext()
        dtype = getattr(torch, self.config.amp_dtype)
        return torch.autocast(self.device.type, dtype=dtype)

    def loss(self, batch: Batch) -> Tensor:
        """Return what a step minimises on `batch`: the task's loss plus the learned groupings' penalty."""
        batch = batch._replace(images=batch.images.contiguous(memory_format=self.layout))
        loss = self.task.loss(self.wrapped, batch, self.config, self.teacher)
        return loss + penalty(self.model) if self.learns else loss

    def update_weights(self) -> None:
        """Let the optimiser do its step.

        Raises:
            CheckpointError: it is the first after a resume, and trips over what the checkpoint has of it.
        """
        try:
            self.scaler.step(self.optimizer)
        except Exception as error:  # each optimiser trips in its own way over what is not its own
            if self._resumed_from is None:
                raise
            reason = f"is of another optimiser: {type(error).__name__}: {first_line(error)}"
            raise CheckpointError(self._resumed_from, reason) from error
        self.scaler.update()
        self._resumed_from = None

    def set_progress(self) -> None:
        """Tell modules that learn their grouping how much of the run is done."""
        if self.learns:
            set_progress(self.model, self.progress)

    def schedule_lr(self) -> None:
        """Set the learning rate of the next step: a function of its number alone."""
        schedule = next(schedule for step, schedule in reversed(self.schedules) if step <= self.step)
        if schedule is not None:
            schedule.step_update(self.step)

    def begin_epoch(self) -> None:
        """Forget the losses of the epoch before."""
        self.epoch_loss = self._zero()

    def mean_loss(self) -> float:
        """Return this process's mean loss over the running epoch's steps; waits for the GPU."""
        done = self.step - len(self.history.epochs) * self.steps_per_epoch
        return float(self.epoch_loss) / max(done, 1)

    def prepare_output(self) -> None:
        """Make the output directory, if there is to be one, so that it cannot fail after hours only.

        Raises:
            CheckpointError: it cannot be made or written to, or its disk has no room for what will come.
            ConfigError: there is none, and the config asks for something that needs one.
        """
        config = self.config
        if config.output is None and (config.resume or config.log_tensorboard):
            raise ConfigError("output", None, "a directory", "resume and log_tensorboard need one")
        if config.output is None or not self.processes.first:
            return
        prepare(config.output)
        weights = self._sizes[0] * (1 if self.ema is None else 2)
        moments = 0 if (config.opt, config.momentum) == ("sgd", 0) else 1 if config.opt == "sgd" else 2
        one = weights + moments * self._sizes[1]
        published = 0 if self.origin.document is None else 3 * weights  # the best is there twice for a moment
        check_room(config.output, one, config.checkpoint_hist, published)

    def save(self) -> Path | None:
        """Write a checkpoint into the output directory, if there is one; all processes must call it.

        Raises:
            CheckpointError: it could not be written; those that were there still are.
        """
        if self.config.output is None:
            return None
        epoch_loss = self.processes.sum(self.epoch_loss)
        self.processes.share_buffers(self.model)
        sections: dict[str, object] = {"model": gathered(self.model)}
        if self.ema is not None:
            sections["ema"] = gathered(self.ema.module)
        sections["optimizer"] = gathered_optimizer(self.model, self.optimizer)
        if self.directory is None:
            return None
        sections["training"] = {
            "step": self.step,
            "epoch_loss": epoch_loss,
            "history": self.history.to_json(),
            "scaler": self.scaler.state_dict(),
        }
        return self.directory.save(sections, keep=self.config.checkpoint_hist)

    def publish_best(self) -> None:
        """Write the network of the epoch that is just over, if it is the best so far, as `best`."""
        if self.origin.document is None or not self.history.epochs:
            return
        if self.step != len(self.history.epochs) * self.steps_per_epoch:
            return
        last = self.history.last
        if self.history.best is not last:
            return
        model = self.evaluated if last.best_is_averaged else self.model
        which = "trained" if self.ema is None else "averaged" if last.best_is_averaged else "unaveraged"
        name = next(iter(last.figures))
        result = {"epoch": last.epoch, name: last.best_score, "weights": which}
        state = gathered(model)
        if self.directory is None:
            return
        sections = {"weights": state, "network": self.origin.document, "result": result}
        self.directory.publish(BEST, sections)

    def publish_weights(self) -> None:
        """Write the trained network as `weights`: the average if there is one, and beside it the other."""
        if self.origin.document is None:
            return
        sections = {"weights": gathered(self.evaluated), "network": self.origin.document}
        if self.ema is not None:
            sections["unaveraged"] = gathered(self.model)
        if self.directory is None:
            return
        self.directory.publish(WEIGHTS, sections)

    def lock(self, wait: bool, say: Callable[[str], object]) -> AbstractContextManager[Callable[[], bool]]:
        """Return the lock of the output directory, as a function to be called until it says that it is had.

        Args:
            wait: whether to wait while another process has it.
            say: called with a line if one has.
        """
        output = self.config.output
        if output is None:
            return nullcontext(lambda: True)
        lock = Lock(output / LOCK, wait=wait, say=say) if self.processes.first else None
        return _attempts(lock, self.processes)

    def resume(self) -> list[str]:
        """Go on from the newest good checkpoint, if the config says so and there is one.

        Returns:
            What the user should know: checkpoints that were passed over because they are damaged.

        Raises:
            ConfigError: the output directory holds another run, or it holds a run and the config does not say
                to resume it.
            CheckpointError: every checkpoint is damaged, or it is of another model.
        """
        output, config = self.config.output, self.config
        if output is None:
            return []
        notes: list[str] = []
        if self.identity is not None:
            command = self.origin.command
            self.directory = RunDirectory.claim(output, self.identity, resume=config.resume, command=command)
            notes += self.directory.notes
            if self.directory.notes and self.learns:
                notes.append(f"its groupings are learned in the first {self.directory.record.plans[0][1]}")
        path, refused = latest_valid(output) if config.resume else (None, [])
        number = -1 if path is None else int(path.name.rpartition("-")[2])
        agreed = self.processes.agree(number)
        if agreed != number:
            raise CheckpointError(output, f"holds checkpoint {number} here, {agreed} at rank 0: share it")
        plans = () if self.directory is None else self.directory.record.plans
        numbers = self.processes.agree_all([number for plan in plans for number in plan])
        self.plans = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        self._make_schedules()
        if path is not None:
            self._restore(path, load_checkpoint(path))
            self.publish_best()
        return notes + [f"passed over a damaged checkpoint: {one.reason}" for one in refused]

    def _restore(self, path: Path, sections: dict[str, Any]) -> None:
        try:
            training = Progress.of(path, sections)
            optimizer, model, ema = sections["optimizer"], sections["model"], sections.get("ema")
        except KeyError as error:
            raise CheckpointError(path, f"is not a checkpoint of training: {error}") from error
        if self.ema is not None:
            load_state(path, self.ema.module, scattered(self.model, ema))
        load_state(path, self.model, scattered(self.model, model))
        try:
            self.optimizer.load_state_dict(scattered_optimizer(self.model, self.optimizer, optimizer))
            self.scaler.load_state_dict(training.scaler)
        except Exception as error:  # each optimiser trips in its own way over what is not its own
            reason = f"is of another optimiser: {type(error).__name__}: {first_line(error)}"
            raise CheckpointError(path, reason) from error
        self._resumed_from = path
        self.step, self.history = training.step, History(training.history)
        self.epoch_loss = training.epoch_loss.to(self.device) if self.processes.part == 0 else self._zero()

    def _make_schedules(self) -> None:
        """Make the schedule of each plan, all from the learning rate of the config."""
        self.schedules = []
        for step, epochs in self.plans:
            for group in self.optimizer.param_groups:
                group["lr"] = group.get("initial_lr", group["lr"])
            planned = replace(self.config, epochs=epochs)
            self.schedules.append((step, make_schedule(self.optimizer, planned, self.steps_per_epoch)))

    def _loader(self, train: bool) -> Loader:
        config = self.config
        return Loader(
            self.data,
            config.batch_size,
            train=train,
            seed=config.seed,
            augmentation=_augmentation(self.data, config) if train else None,
            rank=self.processes.part,
            world=self.processes.parts,
            workers=config.workers,
            device=self.device,
        )

    def _check_fit(self) -> None:
        images = len(self.data.train)
        if self.steps_per_epoch < 1:
            allowed = f"at most {len(self.train_loader)}, the batches of {images} training images"
            raise ConfigError("grad_accum_steps", self.config.grad_accum_steps, allowed)
        if self.config.batch_size == 1:
            _check_single(self.task, self.model, self.data, self.device)
        for what, model in (("model", self.model), ("teacher", self.teacher)):
            if model is not None:
                self.task.check(what, model, self.data, self.device)

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64 if self.device.type != "mps" else None, device=self.device)


def _check_single(task: Task, model: nn.Module, data: DataSet, device: torch.device) -> None:
    """Require that the model can be trained on one image at a time; it is tried on a copy."""
    trial = copy.deepcopy(model).train()
    try:
        task.attempt(trial, data, 1, device)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            return  # for another check to say
        reason = "in training, batch normalisation needs more than one number a channel, and its map is 1 x 1"
        raise ConfigError("batch_size", 1, "at least 2 for this network and these images", reason) from error


def _augmentation(data: DataSet, config: TrainConfig) -> Augmentation:
    base = data.augmentation if config.augment else Augmentation()
    if config.aa is not None:
        base = replace(base, kind="timm", auto=config.aa)
        try:
            base.of_pictures(8, 8)
        except Exception as error:  # whatever timm trips over as it reads the text
            allowed = "a policy of timm's, such as rand-m9-mstd0.5, augmix-m3 or original"
            raise ConfigError("aa", config.aa, allowed, first_line(error)) from error
    return replace(base, mixup=config.mixup, cutmix=config.cutmix, smoothing=config.smoothing)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def _attempts(lock: Lock | None, processes: Processes) -> Iterator[Callable[[], bool]]:
    """Give a function that tries to take rank 0's lock, and says to all processes whether it has."""
    try:
        yield lambda: bool(processes.agree(int(lock is not None and lock.attempt())))
    finally:
        if lock is not None:
            lock.release()
