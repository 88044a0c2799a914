"""What a user sees while a network trains: a live bar in a terminal, a line for each epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from regroup.training.history import EpochResult, History, told
from regroup.training.loggers import Logger


def display(how: str) -> list[Callable[[], Logger]]:
    """Return makers of the loggers for `TrainConfig.display`: 'auto', 'plain' or 'quiet'."""
    if how == "quiet":
        return []
    return [Live if how == "auto" and sys.stderr.isatty() else Lines]


def warn(line: str) -> None:
    """Show a line that nobody may miss, however quiet a run is: that it waits for another."""
    print(line, file=sys.stderr, flush=True)


class Lines(Logger):
    """A line for each epoch on stderr, and one a minute within long ones."""

    def begin(self, steps: int, epochs: int, history: History) -> None:
        self._steps, self._epochs, self._spoken = steps, epochs, time.monotonic()
        if history.epochs:
            self.note(f"going on after epoch {history.last.epoch}")

    def step(self, epoch: int, done: int, loss: float) -> None:
        if time.monotonic() - self._spoken > 60:
            self.note(f"epoch {epoch}/{self._epochs}  step {done}/{self._steps}  loss {loss:.4f}")

    def epoch(self, result: EpochResult) -> None:
        self.note(describe(result, self._epochs))

    def note(self, text: str) -> None:
        self._spoken = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class Live(Logger):
    """A bar for the epoch that runs, below a line for each that is over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)

    def begin(self, steps: int, epochs: int, history: History) -> None:
        self._steps, self._epochs, self._shown = steps, epochs, 0.0
        done = len(history.epochs) * steps
        self._task = self._progress.add_task("", total=epochs * steps, completed=done)
        self._progress.start()

    def step(self, epoch: int, done: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._shown > 0.1:  # faster than anyone reads, and slow enough to cost nothing
            self._shown = now
            text = f"epoch {epoch}/{self._epochs}  loss {loss:.4f}"
            done += (epoch - 1) * self._steps
            self._progress.update(self._task, completed=done, description=text)

    def epoch(self, result: EpochResult) -> None:
        self._progress.update(self._task, completed=result.epoch * self._steps)
        self.note(describe(result, self._epochs))

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def end(self) -> None:
        self._progress.stop()


def describe(result: EpochResult, epochs: int) -> str:
    """Return a result as one line.

    >>> describe(EpochResult(3, 66, 0.05, 0.41, 0.22, {"top1": 93.25, "top5": 99.8}, 2.5, 575.0), 10)
    'epoch  3/10  loss 0.4100  test loss 0.2200  top-1 93.25 %  lr 0.05  575 images/s'
    """
    first = dict(list(result.figures.items())[:1])
    tested = "" if result.test_loss is None else f"  test loss {result.test_loss:.4f}"
    return (
        f"epoch {result.epoch:{len(str(epochs))}}/{epochs}  loss {result.train_loss:.4f}{tested}"
        f"  {told(first)}  lr {result.lr:.3g}  {result.images_per_second:.0f} images/s"
    )
