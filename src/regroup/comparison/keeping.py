"""Where a comparison keeps what it has trained: a directory for each run, by the identity of the run.

report/
index.html  comparison.json  comparison.csv          what was found
compare.lock                                         locked while a comparison runs here
times/                                               what was timed: see regroup.comparison.timing
runs/grouped-groups-4/seed0-1f0c5e2a9b34/            a run: see regroup.training.directory

Whatever decides the trained weights is in the name of a run's directory, so that no result can be taken for
that of another strategy, setting, source or image.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import torch

from regroup.comparison.timing import TIMES
from regroup.errors import CheckpointError, DataError, LockedError, ReportError
from regroup.files.remote import Store, address
from regroup.files.sealed import MANIFEST
from regroup.files.staging import staged
from regroup.training.checkpoint import latest_valid
from regroup.training.directory import LOCK as RUN_LOCK
from regroup.training.directory import RUN, Record, RunDirectory, prepare
from regroup.training.identity import Identity

REPORT = ("index.html", "comparison.json", "comparison.csv")
LOCK = "compare.lock"

Say = Callable[[str], object]


def prepare_out(out: Path) -> None:
    """Make the directory of a comparison, and make sure that the report can be written there in the end.

    Raises:
        CheckpointError: it cannot be made or written to.
        ReportError: something is in the way of the report.
    """
    prepare(out)
    for name in (*REPORT, LOCK):
        path = out / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ReportError(
                path, "is in the way of the report: it is no file; remove it or choose another --out"
            )
    times = out / TIMES
    if times.is_symlink() or (times.exists() and not (times / MANIFEST).exists()):
        raise ReportError(times, "is in the way of the report's times: remove it or choose another --out")


def home_of(out: Path, wait: bool, say: Say) -> AbstractContextManager[Path]:
    """Give the directory of this machine for report and times: `out`, or where it is published from.

    Below a URL each run has such a place of its own: see `regroup.training.placing`.
    """
    url = address(out)
    if url is None:
        return nullcontext(out)
    return staged(url, LOCK, wait=wait, say=say, part=lambda name: not name.startswith("runs/"))


def jobs_of(out: Path) -> Path:
    """Return where submitit keeps its jobs, on a disk that all machines share."""
    return Path("submitit").absolute() if address(out) else out / "submitit"


def run_directory(out: Path, label: str, seed: int, identity: Identity, say: Say) -> Path:
    """Return the directory for a run; say so if there is one of other settings, or if it was damaged.

    Args:
        out: of the comparison.
        label: of the strategy.
        seed: of the run.
        identity: of the run.
        say: called with a line about what the user should know.
    """
    folder = out / "runs" / "".join(c if c.isalnum() else "-" for c in label)[:80]
    path = folder / f"seed{seed}-{identity.digest[:12]}"
    if address(out) is not None:  # what is there is looked at when it is fetched
        return path
    if not path.exists():
        _say_what_differs(folder, seed, identity, say)
        return path
    try:
        _require_file(path / RUN_LOCK)
        record = Record.read(path)
        if record is None:
            latest_valid(path)
        else:
            found = RunDirectory(path, record)
            found.check_parts()
            found.latest()
            if differences := record.identity.differences(identity):
                raise CheckpointError(path / RUN, f"is of another run than its name says: {differences[0]}")
    except CheckpointError as error:
        _set_aside(path, error, say)
    return path


def _require_file(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise CheckpointError(path, "is no file")


class SetAside(Exception):
    """What lay in a run's directory could not be gone on with and is out of the way."""


@contextmanager
def usable(path: Path, say: Say) -> Iterator[None]:
    """Set a run's directory aside if going on with it fails for what it holds.

    Args:
        path: the directory.
        say: called with a line about that.

    Raises:
        SetAside: that is done; what is inside can be tried again, once.
    """
    url = address(path)
    before = path.exists() if url is None else bool(Store(url).objects())
    try:
        yield
    except CheckpointError as error:
        if not before or _is_of_disk(error):  # what it holds may be good
            raise
        _set_aside(path, error, say)
        raise SetAside from error


def _is_of_disk(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error is not None


def _set_aside(path: Path, error: CheckpointError, say: Say) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    if url := address(path):
        Store(url).move(str(address(aside)))
        say(f"{path.name} is trained again: {error} (set aside as {aside.name})")
        return
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    say(f"{path.name} is trained again: {error} (set aside as {aside.name})")


def fault_of_machine(error: BaseException) -> str | None:
    """Return what the machine could not do, in words, if that is why a run failed; else None."""
    if isinstance(error, (CheckpointError, LockedError, DataError)):
        return str(error)
    if isinstance(error, OSError):
        return str(error) if error.errno is None else f"{error.strerror}" + _of(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        return "not enough memory"
    return None


def _of(error: OSError) -> str:
    named = error.errno not in (errno.ENOMEM,) and error.filename is not None
    return f": {error.filename}" if named else ""


def _say_what_differs(folder: Path, seed: int, identity: Identity, say: Say) -> None:
    others = []
    for place in folder.glob(f"seed{seed}-*") if folder.is_dir() else ():
        with suppress(CheckpointError, KeyError, TypeError, AttributeError):
            if (record := Record.read(place)) is not None:
                others.append(record.identity.differences(identity))
    if others:
        nearest = min(others, key=len)
        more = f" and {len(nearest) - 3} more" if len(nearest) > 3 else ""
        say(f"seed {seed} is a new run: {', '.join(map(str, nearest[:3]))}{more}")
