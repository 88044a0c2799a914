"""Images per second of regroup's training loop against timm's own, on the same networks and images.

python -m benchmarks.training
python -m benchmarks.training --models resnet_small,resnet18 --seconds 60 --json training.json

Two comparisons for each network: the loops alone, on the same batches made beforehand, and all that an epoch
takes from images in memory, with the batches that each side makes. timm's loop is a script that its wheel
does not hold, so its steps stand here in their order (train.py, train_one_epoch, timm 1.0), made of timm's
own task, optimiser, schedule, scaler-free backward and meters. Both sides take turns, epoch by epoch.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from timm.utils import AverageMeter
from torch import nn
from torch.utils.data import Dataset

from regroup.networks.anywhere import create_any_model
from regroup.profiling.clock import Ratio, Timing, measure_in_turns, ratio
from regroup.training import DataSet, TrainConfig, load_data
from regroup.training.data import Batch, Split
from regroup.training.interruption import Interruption
from regroup.training.loggers import Logger
from regroup.training.loop import _train_epoch
from regroup.training.processes import Processes
from regroup.training.run import Run

EPOCHS = 10**6
"""Of the schedule: enough that no measurement reaches its end."""


@dataclass(frozen=True)
class Made:
    """Batches made beforehand, in place of a `Loader`."""

    made: list[Batch]

    @property
    def step(self) -> int:
        """Images in a step."""
        return len(self.made[0].labels)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the same batches in every epoch."""
        yield from self.made[start // self.step :]


class Ours:
    """An epoch of regroup's loop, again and again."""

    def __init__(self, model: nn.Module, data: DataSet, batch_size: int, made: list[Batch] | None) -> None:
        config = TrainConfig(epochs=EPOCHS, batch_size=batch_size, lr=1e-3, augment=False, device="cpu")
        self.run = Run(model, data, config, None, Processes(0, 1, torch.device("cpu")))
        if made is not None:
            self.run.train_loader = Made(made)  # type: ignore[assignment]

    def epoch(self) -> None:
        self.run.step = 0
        self.run.begin_epoch()
        _train_epoch(self.run, Interruption(), Logger())


class Theirs:
    """An epoch of timm's loop, again and again."""

    def __init__(self, model: nn.Module, loader: Iterable, steps: int) -> None:
        self.loader, self.steps = loader, steps
        self.task = ClassificationTask(model, criterion=nn.CrossEntropyLoss(), verbose=False)
        self.optimizer = create_optimizer_v2(model, opt="sgd", lr=1e-3, weight_decay=1e-4, momentum=0.9)
        self.schedule, _ = create_scheduler_v2(
            self.optimizer, num_epochs=EPOCHS, step_on_epochs=False, updates_per_epoch=steps
        )

    def epoch(self) -> None:
        update_times, data_times, losses = AverageMeter(), AverageMeter(), AverageMeter()
        self.task.get_trainable_module().train()
        data_start = update_start = time.time()
        self.optimizer.zero_grad()
        for updates, (images, labels) in enumerate(self.loader, start=1):
            images, labels = images.to(device="cpu", dtype=torch.float32), labels.to(device="cpu")
            data_times.update(time.time() - data_start)
            loss = self.task(images, labels)["loss"]
            loss.backward()
            self.optimizer.step()
            losses.update(loss.item(), len(labels))
            self.optimizer.zero_grad()
            self.task.update_ema(step=updates)
            now = time.time()
            update_times.update(now - update_start)
            update_start = now
            self.schedule.step_update(num_updates=updates, metric=losses.avg)
            data_start = time.time()


class Pictures(Dataset):
    """A split as pictures, for timm's transforms, which set `transform`."""

    transform = None

    def __init__(self, split: Split) -> None:
        self.pictures = [split.picture(i) for i in range(len(split))]
        self.labels = split.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple:
        assert self.transform is not None
        return self.transform(self.pictures[index]), self.labels[index]


def timms_loader(data: DataSet, batch_size: int) -> Iterable:
    """Return timm's loader of the training images, without augmentation and without worker processes."""
    return create_loader(
        Pictures(data.train),
        data.shape,
        batch_size,
        is_training=True,
        no_aug=True,
        mean=data.mean,
        std=data.std,
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )


def compare(
    name: str, data: DataSet, batch_size: int, alone: bool, seconds: float, now: Callable[[], float]
) -> dict[str, Timing]:
    """Return the time of an epoch of both loops, in turns, from the same initial weights."""
    torch.manual_seed(0)
    model = create_any_model(name, num_classes=len(data.classes), in_chans=data.shape[0])
    ours = Ours(copy.deepcopy(model), data, batch_size, None)
    if alone:
        made = list(ours.run.train_loader.batches(0))
        ours = Ours(copy.deepcopy(model), data, batch_size, made)
        loader: Iterable = [(batch.images, batch.labels) for batch in made]
    else:
        loader = timms_loader(data, batch_size)
    theirs = Theirs(model, loader, ours.run.steps_per_epoch)
    turns = {"regroup": ours.epoch, "timm": theirs.epoch}
    return measure_in_turns(turns, seconds=seconds, warmup=1.0, now=now)


def report(rows: list[tuple[str, str, int, dict[str, Timing], Ratio]]) -> None:
    """Print images per second of both, with quartiles, and the ratio of the times with its interval."""
    table = Table(box=None)
    for column in ("network", "what", "regroup", "timm", "time of regroup / timm"):
        table.add_column(column, justify="left" if column in ("network", "what") else "right")
    for name, what, images, turns, times in rows:
        speeds = [
            f"{images / t.median:.0f} ({images / t.high:.0f}-{images / t.low:.0f})" for t in turns.values()
        ]
        table.add_row(
            name, what, *speeds, f"{times.median:.3f} ({times.low:.3f}-{times.high:.3f}), {times.verdict}"
        )
    Console(width=140).print("images per second: median (quartiles)", table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="resnet_small,timm:resnet18")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--image", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each loop of each comparison")
    parser.add_argument("--cpu-time", action="store_true", help="of this process, where the machine is busy")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    now = time.process_time if args.cpu_time else time.perf_counter
    data, rows, results = load_data(args.data, args.image), [], []
    for name in args.models.split(","):
        for what in ("loop alone", "whole epoch"):
            turns = compare(name, data, args.batch_size, what == "loop alone", args.seconds, now)
            images = len(data.train) // args.batch_size * args.batch_size
            rows.append((name, what, images, turns, ratio(turns["regroup"], turns["timm"])))
            speeds = {side: [images / t for t in timing.samples] for side, timing in turns.items()}
            results.append({"network": name, "what": what, "images_per_second": speeds})
    report(rows)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
