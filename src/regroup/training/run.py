"""A run: all that a step of training needs, made from a model, data and a config, and its saved state."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from regroup.errors import CheckpointError, ConfigError
from regroup.files.sealed import remove_partial
from regroup.strategies.learning import learned_modules, penalty, set_progress
from regroup.training.checkpoint import latest_valid, list_checkpoints, load_checkpoint, load_state
from regroup.training.checkpoint import save_checkpoint as write_checkpoint
from regroup.training.config import TrainConfig
from regroup.training.data import Augmentation, Batch, DataSet, Loader
from regroup.training.history import History
from regroup.training.optimisation import make_average, make_optimizer, make_schedule
from regroup.training.processes import Processes


class Run:
    """One training run. `model` is trained in place.

    Attributes:
        step: steps done since the beginning.
        epoch_loss: sum of the losses of the running epoch's steps, of this process; stays on the device.
        history: results of the epochs that are over.

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
    ) -> None:
        self.config, self.data, self.processes = config, data, processes
        self.device = processes.device
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.teacher = None if teacher is None else teacher.to(self.device).eval()
        self.train_loader, self.test_loader = self._loader(train=True), self._loader(train=False)
        self.steps_per_epoch = len(self.train_loader) // config.grad_accum_steps
        self._check_fit()
        self.learns = bool(learned_modules(model))
        self.wrapped = processes.wrap(model)
        self.optimizer = make_optimizer(model, config)
        self.schedule = make_schedule(self.optimizer, config, self.steps_per_epoch)
        scaled = config.amp and config.amp_dtype == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.ema = make_average(model, config)
        self.step = 0
        self.epoch_loss = self._zero()
        self.history = History([])

    @property
    def total_steps(self) -> int:
        """Steps in the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def evaluated(self) -> nn.Module:
        """The module whose accuracy counts: the moving average if there is one."""
        return self.model if self.ema is None else self.ema.module

    def autocast(self) -> AbstractContextManager:
        """Return the context in which forward passes run."""
        if not self.config.amp:
            return nullcontext()
        dtype = getattr(torch, self.config.amp_dtype)
        return torch.autocast(self.device.type, dtype=dtype)

    def loss(self, batch: Batch) -> Tensor:
        """Return what a step minimises on `batch`: cross-entropy plus the learned groupings' penalty.

        With a teacher, (1 - a) CE + a T^2 KL(teacher at T || student at T): Hinton et al. 2015, section 2.
        """
        images = batch.images.contiguous(memory_format=self.layout)
        scores = self.wrapped(images).float()
        smoothing = 0.0 if batch.labels.is_floating_point() else self.config.smoothing
        loss = functional.cross_entropy(scores, batch.labels, label_smoothing=smoothing)
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.teacher(images).float()
            loss = torch.lerp(loss, self._distillation(scores, wanted), self.config.distillation_alpha)
        return loss + penalty(self.model) if self.learns else loss

    def set_progress(self) -> None:
        """Tell modules that learn their grouping how much of the run is done."""
        if self.learns:
            set_progress(self.model, self.step / self.total_steps)

    def schedule_lr(self) -> None:
        """Set the learning rate of the next step: a function of its number alone."""
        if self.schedule is not None:
            self.schedule.step_update(self.step)

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
            CheckpointError: it cannot be made or written to.
            ConfigError: there is none, and the config asks for something that needs one.
        """
        directory = self.config.output
        if directory is None and (self.config.resume or self.config.log_tensorboard):
            raise ConfigError("output", None, "a directory", "resume and log_tensorboard need one")
        if directory is None or not self.processes.first:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(directory, f"cannot be made: {error.strerror or error}") from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise CheckpointError(directory, "cannot be written to")

    def save(self) -> Path | None:
        """Write a checkpoint into the output directory, if there is one; all processes must call it.

        Raises:
            CheckpointError: it could not be written; those that were there still are.
        """
        directory = self.config.output
        if directory is None:
            return None
        epoch_loss = self.processes.sum(self.epoch_loss)
        self.processes.share_buffers(self.model)
        if not self.processes.first:
            return None
        sections: dict[str, object] = {"model": self.model.state_dict()}
        if self.ema is not None:
            sections["ema"] = self.ema.module.state_dict()
        sections["optimizer"] = self.optimizer.state_dict()
        sections["training"] = {
            **self._identity(),
            "step": self.step,
            "epoch_loss": epoch_loss,
            "history": self.history.to_json(),
            "scaler": self.scaler.state_dict(),
        }
        return write_checkpoint(directory, sections, keep=self.config.checkpoint_hist)

    def resume(self) -> list[str]:
        """Go on from the newest good checkpoint, if the config says so and there is one.

        Returns:
            What the user should know: checkpoints that were passed over because they are damaged.

        Raises:
            ConfigError: the checkpoint is of a run with another config, data set or number of processes; or
                the output directory holds a run and the config does not say to resume it.
            CheckpointError: every checkpoint is damaged, or it is of another model.
        """
        directory = self.config.output
        self.prepare_output()
        if directory is None:
            return []
        if not self.config.resume:
            if list_checkpoints(directory):
                remedy = "say resume to go on with it, or choose another directory"
                raise ConfigError("output", str(directory), "a directory that holds no run yet", remedy)
            return []
        path, refused = latest_valid(directory)
        number = -1 if path is None else int(path.name.rpartition("-")[2])
        agreed = self.processes.agree(number)
        if agreed != number:
            raise CheckpointError(directory, f"holds checkpoint {number} here, {agreed} at rank 0: share it")
        if self.processes.first and directory.is_dir():
            remove_partial(directory)
        if path is not None:
            self._restore(path, load_checkpoint(path))
        return [f"passed over a damaged checkpoint: {one.reason}" for one in refused]

    def _restore(self, path: Path, sections: dict[str, Any]) -> None:
        try:
            training = sections["training"]
            _check_same(training, self._identity())
            history = History.from_json(training["history"])
            step, epoch_loss = training["step"], training["epoch_loss"]
            optimizer, scaler = sections["optimizer"], training["scaler"]
            model, ema = sections["model"], sections.get("ema")
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(path, f"is not a checkpoint of training: {error!r}") from error
        if self.ema is not None:
            load_state(path, self.ema.module, ema)
        load_state(path, self.model, model)
        try:
            self.optimizer.load_state_dict(optimizer)
        except ValueError as error:
            raise CheckpointError(path, f"is of another optimiser: {error}") from error
        self.scaler.load_state_dict(scaler)
        self.step, self.history = step, history
        self.epoch_loss = epoch_loss.to(self.device) if self.processes.first else self._zero()

    def _identity(self) -> dict[str, object]:
        """Return what a checkpoint must share with the run that goes on from it."""
        data = self.data
        return {
            "config": self.config.result(),
            "data": {
                "name": data.name,
                "shape": list(data.shape),
                "classes": len(data.classes),
                "train": len(data.train),
                "test": len(data.test),
            },
            "processes": self.processes.world,
            "teacher": self.teacher is not None,
        }

    def _loader(self, train: bool) -> Loader:
        config = self.config
        return Loader(
            self.data,
            config.batch_size,
            train=train,
            seed=config.seed,
            augmentation=_augmentation(self.data, config) if train else None,
            rank=self.processes.rank,
            world=self.processes.world,
            workers=config.workers,
            device=self.device,
        )

    def _check_fit(self) -> None:
        images, labels = len(self.data.train), len(self.data.classes)
        if self.steps_per_epoch < 1:
            allowed = f"at most {len(self.train_loader)}, the batches of {images} training images"
            raise ConfigError("grad_accum_steps", self.config.grad_accum_steps, allowed)
        for what, model in (("model", self.model), ("teacher", self.teacher)):
            if model is None:
                continue
            shape = tuple(_scores(what, model, self.data, self.device).shape)
            if shape != (2, labels):
                found = f"{shape[1]} classes" if len(shape) == 2 else f"output of shape {shape}"
                raise ConfigError(what, found, f"a network with a score for each of {labels} classes")

    def _distillation(self, scores: Tensor, wanted: Tensor) -> Tensor:
        heat = self.config.distillation_temperature
        student, teacher = (functional.log_softmax(x / heat, dim=1) for x in (scores, wanted))
        return heat**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64 if self.device.type != "mps" else None, device=self.device)


@torch.no_grad()
def _scores(what: str, model: nn.Module, data: DataSet, device: torch.device) -> Tensor:
    """Return the scores of two blank images; what the model cannot take is an error that says so."""
    mode = model.training
    try:
        return model.eval()(torch.zeros(2, *data.shape, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        channels, height, width = data.shape
        cause = str(error).partition("\n")[0]
        allowed = f"a network for {channels} x {height} x {width} images (channels, height, width)"
        raise ConfigError(what, type(model).__name__, allowed, f"it says: {cause}") from error
    finally:
        model.train(mode)


def _augmentation(data: DataSet, config: TrainConfig) -> Augmentation:
    base = data.augmentation if config.augment else Augmentation()
    if config.aa is not None:
        base = replace(base, kind="timm", auto=config.aa)
    return replace(base, mixup=config.mixup, cutmix=config.cutmix, smoothing=config.smoothing)


def _check_same(saved: dict, here: dict) -> None:
    for what in ("config", "data"):
        for name, value in here[what].items():
            was = saved[what].get(name)
            if was != value:
                field = name if what == "config" else f"data {name}"
                allowed = f"{was!r}, as in the run to resume"
                raise ConfigError(field, value, allowed, "or choose another output")
    for name in ("processes", "teacher"):
        if saved[name] != here[name]:
            raise ConfigError(name, here[name], f"{saved[name]!r}, as in the run to resume")
