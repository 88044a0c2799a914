"""Where results go: a JSON line for each epoch, TensorBoard, the screen. None of them can stop training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from regroup.files.disk import disk, write_file
from regroup.training.history import EpochResult, History


class Logger:
    """Something that is told how training goes. Subclasses override what they care for."""

    def begin(self, steps: int, epochs: int, history: History) -> None:
        """Training begins, or goes on after the epochs of `history`; an epoch has `steps` steps."""

    def step(self, epoch: int, done: int, loss: float) -> None:
        """`done` steps of epoch `epoch` (1 for the first) are done; `loss` is their mean loss."""

    def epoch(self, result: EpochResult) -> None:
        """An epoch is over and tested."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def end(self) -> None:
        """Training is over, for whatever reason."""


class JsonLines(Logger):
    """One JSON object a line and epoch, in a file that is right after any number of kills and resumes.

    Args:
        path: the file; its directory must exist.
        run: hash of the run that the results are of; stands in each line.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self._path, self._run = path, run

    def begin(self, steps: int, epochs: int, history: History) -> None:
        write_file(self._path, b"".join(self._line(result) for result in history.epochs))

    def epoch(self, result: EpochResult) -> None:
        disk().append(self._path, self._line(result))

    def _line(self, result: EpochResult) -> bytes:
        return json.dumps({"run": self._run, **result.line()}).encode() + b"\n"


class TensorBoard(Logger):
    """Events for TensorBoard.

    Args:
        directory: where the event files go.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory))

    def epoch(self, result: EpochResult) -> None:
        for name, value in result.line().items():
            if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                self._writer.add_scalar(name, value, result.step)
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


class Loggers(Logger):
    """Several loggers as one that never fails: one that raises is dropped, with a line on stderr.

    Args:
        makers: functions that give the loggers.
    """

    def __init__(self, makers: Sequence[Callable[[], Logger]]) -> None:
        self._loggers: list[Logger] = []
        for make in makers:
            self.add(make)

    def add(self, make: Callable[[], Logger]) -> None:
        """Add the logger that `make` gives."""
        try:
            self._loggers.append(make())
        except Exception as error:
            _dropped(make, error)

    def begin(self, steps: int, epochs: int, history: History) -> None:
        self._tell(lambda logger: logger.begin(steps, epochs, history))

    def step(self, epoch: int, done: int, loss: float) -> None:
        self._tell(lambda logger: logger.step(epoch, done, loss))

    def epoch(self, result: EpochResult) -> None:
        self._tell(lambda logger: logger.epoch(result))

    def note(self, text: str) -> None:
        self._tell(lambda logger: logger.note(text))

    def end(self) -> None:
        self._tell(lambda logger: logger.end())

    def _tell(self, event: Callable[[Logger], None]) -> None:
        for logger in tuple(self._loggers):
            try:
                event(logger)
            except Exception as error:
                self._loggers.remove(logger)
                _dropped(type(logger), error)


def _dropped(logger: Callable, error: Exception) -> None:
    name = getattr(logger, "__name__", type(logger).__name__)
    with suppress(OSError, ValueError):  # a terminal that is gone, a stream that is closed
        print(f"regroup: {name} failed and is dropped: {error}", file=sys.stderr, flush=True)
