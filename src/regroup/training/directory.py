"""The directory of a run: one run's, whole at every instant, written by one process at a time.

runs/resnet/
run.json                 what run this is: its identity, and the options it was begun with
run.lock                 locked while a process trains here
log.jsonl                a line for each epoch
checkpoint-000004/       all that training goes on from
best/  weights/          the best network so far; the trained one

Everything but the lock names the run by the hash of its identity. A directory with parts of another is
refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from regroup.errors import CheckpointError, ConfigError
from regroup.files.disk import free_bytes, make_directories, remove_partial, try_writing, write_file
from regroup.files.documents import LARGEST, build, parse
from regroup.files.reading import read_beginning, read_file
from regroup.files.sealed import MANIFEST, is_sealed_as, undisturbed, verify_sealed, write_sealed
from regroup.training.checkpoint import (
    Refused,
    latest_valid,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    section_files,
)
from regroup.training.history import Progress
from regroup.training.identity import Difference, Identity

RUN, LOCK, LOG, WEIGHTS, BEST = "run.json", "run.lock", "log.jsonl", "weights", "best"
_FORMAT = "regroup-run-1"

Plan = tuple[int, int]
"""Step from which it holds, and epochs of the whole run: a run that was given more epochs has several."""


@dataclass(frozen=True)
class Record:
    """What `run.json` says.

    Args:
        identity: of the run, with the epochs that it has now.
        plans: how many epochs it was to have, from which step on.
        earlier: hashes that the run had before it was given other epochs.
        command: the options of the command that began it, if one did.
    """

    identity: Identity
    plans: tuple[Plan, ...]
    earlier: tuple[str, ...] = ()
    command: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """The hash by which all parts of the directory name the run."""
        if len(self.plans) == 1:
            return self.identity.digest
        return hashlib.sha256(f"{self.identity.digest} {self.plans}".encode()).hexdigest()[:32]

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        content = {
            "format": _FORMAT,
            "run": self.digest,
            "earlier": list(self.earlier),
            "plans": [list(plan) for plan in self.plans],
            "identity": self.identity.fields,
            "command": self.command,
        }
        return (json.dumps({**content, "sha256": seal(content)}, indent=1) + "\n").encode()

    @classmethod
    def read(cls, directory: Path) -> Record | None:
        """Return what the directory's `run.json` says, or None if there is none.

        Raises:
            CheckpointError: it is damaged, or not ours.
        """
        path = directory / RUN
        try:
            content = parse(read_file(path, most=LARGEST))
            if content.pop("sha256") != seal(content):
                raise ValueError
            found = build(content, _Content)
            return cls(Identity(found.identity), tuple(found.plans), tuple(found.earlier), found.command)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CheckpointError(path, f"could not be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CheckpointError(path, "is damaged, or was not written by this release of regroup") from None


@dataclass(frozen=True)
class _Content:
    format: Literal["regroup-run-1"]
    run: str
    earlier: list[str]
    plans: list[tuple[int, int]]
    identity: dict[str, Any]
    command: dict[str, Any] | None


class RunDirectory:
    """The directory of a run that this process goes on with; its lock must be held.

    Attributes:
        path: where it is.
        record: what it says of the run.
        notes: what the user should know.
    """

    def __init__(self, path: Path, record: Record) -> None:
        self.path, self.record = path, record
        self.notes: list[str] = []

    @classmethod
    def claim(
        cls, path: Path, identity: Identity, *, resume: bool, command: Mapping[str, Any] | None = None
    ) -> RunDirectory:
        """Return the directory for a run of this identity: a new one's, or one to go on with if `resume`.

        Raises:
            ConfigError: it holds a run, and `resume` is false or that run is another; both sides are named.
            CheckpointError: it holds parts of another run, or parts that do not say of which.
        """
        remove_partial(path)
        record = Record.read(path)
        if record is None:
            if parts := _parts(path):
                reason = f"holds {', '.join(parts)} but no {RUN}, which says of what run"
                raise CheckpointError(path, f"{reason}: choose another directory")
        elif not resume:
            if any(part != LOG for part in _parts(path)):
                remedy = "say resume to go on with it, or choose another directory"
                raise ConfigError("output", str(path), "a directory that holds no run yet", remedy)
            record = None  # it was killed before its first checkpoint
        if record is None:
            epochs = identity.fields["config"]["epochs"]
            found = cls(path, Record(identity, ((0, epochs),), (), command))
            found._write_record()
            return found
        found = cls(path, record)
        found.check_parts()
        found._go_on_as(identity)
        return found

    @property
    def digests(self) -> tuple[str, ...]:
        """The hashes that parts of this directory may name."""
        return (self.record.digest, *self.record.earlier)

    def latest(self) -> tuple[Path | None, list[Refused]]:
        """Return the newest checkpoint that verifies, or None, and the newer ones that were refused."""
        return latest_valid(self.path)

    def save(self, sections: Mapping[str, Any], *, keep: int) -> Path:
        """Write the next checkpoint; the `keep` newest stay.

        Raises:
            CheckpointError: it could not be written; those that were there still are.
        """
        return save_checkpoint(self.path, {**sections, "run": self._mark()}, keep=keep)

    def publish(self, name: str, sections: Mapping[str, Any]) -> Path:
        """Write a sealed directory for others to read, in place of the one before.

        Raises:
            CheckpointError: it could not be written; it is the one before, or the new one.
        """
        path, files = self.path / name, {}
        for section, value in {**sections, "run": self._mark()}.items():
            files |= section_files(section, value)
        if not is_sealed_as(path, files):
            write_sealed(path, files, replace=True)
        return path

    def check(self, path: Path) -> None:
        """Require that a sealed directory is of this run; a damaged one is for others to deal with.

        Raises:
            CheckpointError: it is of another run.
        """
        mark = run_of(path)
        if mark in self.digests or (mark is None and not _is_whole(path)):
            return
        other = "does not say of which run it is" if mark is None else f"is of another run ({mark[:8]})"
        reason = f"{other}; {RUN} says {self.record.digest[:8]}"
        raise CheckpointError(path, f"{reason}: what does not belong together is not used together")

    def _mark(self) -> dict[str, str]:
        return {"run": self.record.digest}

    def _write_record(self) -> None:
        try:
            write_file(self.path / RUN, self.record.to_bytes())
        except OSError as error:
            raise CheckpointError(
                self.path / RUN, f"could not be written: {error.strerror or error}"
            ) from error

    def check_parts(self) -> None:
        """Require that all that the directory holds is of this run.

        Raises:
            CheckpointError: something is of another.
        """
        for path in (*list_checkpoints(self.path), self.path / WEIGHTS, self.path / BEST):
            self.check(path)
        mark = _run_of_log(self.path / LOG)
        if mark is not None and not any(digest.startswith(mark) for digest in self.digests):
            raise CheckpointError(self.path / LOG, f"is of another run than {RUN} says")

    def _go_on_as(self, identity: Identity) -> None:
        record = self.record
        differences = record.identity.differences(identity)
        if not differences:
            return
        if others := [difference for difference in differences if difference.name != "epochs"]:
            raise self._refusal(others)
        path, _ = self.latest()
        done = None if path is None else Progress.of(path, load_checkpoint(path))
        step, epoch = (0, 0) if done is None else (done.step, len(done.history))
        epochs = identity.fields["config"]["epochs"]
        if epochs < epoch:
            raise ConfigError("epochs", epochs, f"at least {epoch}", "so many are done in the run to resume")
        plans = (*(plan for plan in record.plans if plan[0] < step), (step, epochs))
        earlier = (record.digest, *record.earlier)
        self.record = replace(record, identity=identity, plans=plans, earlier=earlier)
        self._write_record()
        self.notes.append(
            f"after epoch {epoch} the run now goes on to epoch {epochs}, not {differences[0].was}: from here "
            f"the schedule is that of {epochs} epochs"
        )

    def _refusal(self, differences: list[Difference]) -> CheckpointError | ConfigError:
        structure = "structure of "
        plain = [difference for difference in differences if not difference.name.startswith(structure)]
        if not plain:
            names = ", ".join(d.name.removeprefix(structure) for d in differences)
            reason = f"modules of the classes {names} differ in names, attributes or shapes"
            return CheckpointError(self.path, f"is of another model: {reason}")
        first, *others = plain
        more = f"; {', '.join(map(str, others[:6]))} {'differs' if len(others) == 1 else 'differ'} too"
        remedy = f"or choose another output{more if others else ''}"
        return ConfigError(first.name, first.now, f"{first.was!r}, as in the run to resume", remedy)


def _is_whole(path: Path) -> bool:
    try:
        return bool(verify_sealed(path))
    except CheckpointError:
        return False


def run_of(path: Path) -> str | None:
    """Return the hash of the run that a sealed directory says it is of; None if it does not say so."""
    try:
        return undisturbed(path, lambda: str(parse(read_file(path / RUN, most=1024))["run"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def published(directory: Path) -> Path:
    """Return the sealed directory of a run's trained weights: `weights`, or the directory itself if sealed.

    Raises:
        CheckpointError: there is none, or it is of another run than the directory says.
    """
    if not directory.is_dir():
        raise CheckpointError(
            directory, "is no directory" if directory.exists() else "there is no such directory"
        )
    if (directory / MANIFEST).exists():
        return directory
    path = directory / WEIGHTS
    if not path.exists():
        if not list_checkpoints(directory):
            raise CheckpointError(directory, "is no run of `regroup train`")
        best = f"; {directory / BEST} is its best network so far" if (directory / BEST).exists() else ""
        raise CheckpointError(directory, f"is a run that is not finished: go on with it by --resume{best}")
    record = Record.read(directory)
    if record is not None:
        RunDirectory(directory, record).check(path)
    return path


def prepare(directory: Path) -> None:
    """Make the directory, and try whether it can be written to, so that it does not fail after hours only.

    Raises:
        CheckpointError: it cannot be made or written to.
    """
    try:
        make_directories(directory)
    except OSError as error:
        above = "" if error.filename in (None, str(directory)) else f": {error.filename}"
        raise CheckpointError(directory, f"cannot be made: {error.strerror or error}{above}") from error
    except ValueError as error:  # a zero in the name
        raise CheckpointError(directory, f"cannot be made: {error}") from error
    try:
        try_writing(directory)
    except OSError as error:
        raise CheckpointError(directory, f"cannot be written to: {error.strerror or error}") from error


def check_room(directory: Path, one: int, keep: int, published: int) -> None:
    """Require that the disk has room for what a run will write.

    Args:
        directory: of the run.
        one: bytes of a checkpoint.
        keep: checkpoints that stay; for a moment there is one more.
        published: bytes of what is written besides.

    Raises:
        CheckpointError: it has not; the message says how much is free and how much is needed.
    """
    missing = max(0, keep + 1 - len(list_checkpoints(directory)))
    needed, free = missing * one + published, free_bytes(directory)
    if free is not None and free < needed:
        reason = f"its disk has {_megabytes(free)} left, and the run will write about {_megabytes(needed)}"
        remedy = f"({missing} checkpoints of {_megabytes(one)}): make room, or lower checkpoint_hist"
        raise CheckpointError(directory, f"{reason} {remedy}")


def _parts(path: Path) -> list[str]:
    """Return the names of what a run would have left in a directory."""
    names = [p.name for p in list_checkpoints(path)[:1]]
    names += [name for name in (WEIGHTS, BEST) if (path / name).exists()]
    return names + ([LOG] if (path / LOG).is_file() else [])


def _run_of_log(path: Path) -> str | None:
    try:
        return str(parse(read_beginning(path, 4096).partition(b"\n")[0])["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def seal(content: Mapping[str, Any]) -> str:
    """Return the hash by which a document says that it is as it was written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
