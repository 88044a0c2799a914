"""Every file operation of a save is made the last one: by a kill, by a power cut, by a full disk."""

import errno
import os
import resource
import shutil
from contextlib import suppress
from itertools import count

import pytest
import torch
from torch import nn

from regroup.errors import CheckpointError
from regroup.files import exchange
from regroup.files.disk import Disk, remove_partial, using
from regroup.files.sealed import undisturbed, write_sealed
from regroup.training import TrainConfig, load_data, train
from regroup.training.checkpoint import (
    latest_valid,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    section_files,
)
from regroup.training.data.scan import scan
from tests.data.malformed import encoded, picture
from tests.faults.system import ERRORS, Crash, Fault, faults


class Killed(Disk):
    """A disk on which the process is killed in the middle of operation number `last`; what it did stays."""

    def __init__(self, last):
        self.left = last

    def make_directory(self, path):
        self.spend(lambda: None)
        super().make_directory(path)

    def write(self, path, data, mode=0o666):
        self.spend(lambda: path.write_bytes(data[: len(data) // 2]))
        super().write(path, data, mode)

    def sync(self, path):
        self.spend(lambda: None)

    def rename(self, old, new):
        self.spend(lambda: None)
        super().rename(old, new)

    def exchange(self, one, other):
        self.spend(lambda: None)
        return super().exchange(one, other)

    def remove(self, path):
        self.spend(lambda: next(path.iterdir()).unlink() if path.is_dir() else None)
        super().remove(path)

    def spend(self, half):
        if self.left == 0:
            half()
            raise Crash
        self.left -= 1


class PowerCut(Killed):
    """... in which the machine stops too, so that what was not synced is lost: the worst it may do."""

    def __init__(self, last):
        super().__init__(last)
        self.unsynced, self.renamed = set(), []

    def write(self, path, data, mode=0o666):
        self.unsynced.add(path)
        super().write(path, data, mode)

    def sync(self, path):
        super().sync(path)
        self.unsynced.discard(path)
        self.renamed = [(old, new) for old, new in self.renamed if new.parent != path]

    def rename(self, old, new):
        super().rename(old, new)
        self.renamed.append((old, new))
        self.move(old, new)

    def exchange(self, one, other):
        able = super().exchange(one, other)
        if able:
            self.renamed.append((one, other))
            self.move(one, other)
        return able

    def move(self, old, new):
        self.unsynced = {new / path.name if path.parent == old else path for path in self.unsynced}

    def lose(self):
        for path in self.unsynced:
            if path.exists():
                path.write_bytes(b"")
        for old, new in reversed(self.renamed):
            if new.exists() and not (old.exists() and exchange.exchange(old, new)):
                new.rename(old)


class Forgetful(PowerCut):
    """A power cut on a disk that ignores `sync` of files: the tests must notice that."""

    def sync(self, path):
        if path.is_dir():
            super().sync(path)


class Full(Killed):
    """A disk that is full, or fails in another way, from operation number `last` on."""

    def __init__(self, last, number=errno.ENOSPC):
        super().__init__(last)
        self.number = number

    def spend(self, half):
        if self.left == 0:
            half()
            raise OSError(self.number, "No space left on device")
        self.left -= 1


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def sections(step):
    return {"model": {"weight": torch.full((3, 5), float(step))}, "training": {"step": step}}


def saved_before(directory):
    for step in (1, 2):
        save_checkpoint(directory, sections(step), keep=2)


def steps_after_each_crash(make_disk, tmp_path):
    """Yield (step of the newest good checkpoint, whether the save returned) for a crash at each operation."""
    for last in count():
        directory = tmp_path / f"{last}"
        saved_before(directory)
        disk = make_disk(last)
        try:
            with using(disk):
                save_checkpoint(directory, sections(3), keep=2)
            returned = True
        except Crash:
            returned = False
        if isinstance(disk, PowerCut):
            disk.lose()
        yield step_of_latest(directory), returned
        if returned:
            return
        save_checkpoint(directory, sections(4), keep=2)
        assert step_of_latest(directory) == 4
        assert not list(directory.glob(".*")), "a partial directory was left behind"
        assert len(list_checkpoints(directory)) == 2


def step_of_latest(directory):
    path, _ = latest_valid(directory)
    found = load_checkpoint(path)
    step = found["training"]["step"]
    assert torch.equal(found["model"]["weight"], sections(step)["model"]["weight"])
    return step


@pytest.mark.parametrize("make_disk", [Killed, PowerCut])
def test_after_any_crash_the_newest_good_checkpoint_is_the_old_or_the_new_one(make_disk, tmp_path):
    steps = list(steps_after_each_crash(make_disk, tmp_path))
    assert len(steps) > 12  # mkdir, 4 files and a manifest written and synced, rename, 2 syncs, 1 removal
    assert {step for step, _ in steps} == {2, 3}
    assert steps[-1] == (3, True)
    assert [step for step, _ in steps] == sorted(step for step, _ in steps)


def publish(path, step):
    files = {}
    for name, value in sections(step).items():
        files |= section_files(name, value)
    write_sealed(path, files, replace=True)


def step_of(path):
    found = load_checkpoint(path)
    step = found["training"]["step"]
    assert torch.equal(found["model"]["weight"], sections(step)["model"]["weight"])
    return step


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("make_disk", [Killed, PowerCut, Full])
def test_what_is_replaced_is_the_old_or_the_new_one_whatever_is_interrupted(
    make_disk, able, tmp_path, monkeypatch
):
    """Also where the system knows no exchange: then it may be missing after a crash, but never mixed."""
    if not able:
        monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    steps, returned = [], False
    for last in count():
        path = tmp_path / f"{last}" / "weights"
        path.parent.mkdir()
        publish(path, 1)
        disk = make_disk(last)
        with using(disk), suppress(Crash, CheckpointError):
            publish(path, 2)
            returned = True
        if isinstance(disk, PowerCut):
            disk.lose()
        missing = not path.exists()
        assert not (missing and (able or make_disk is Full))
        steps += [] if missing else [step_of(path)]
        remove_partial(path.parent)
        publish(path, 3)
        assert step_of(path) == 3 and list(path.parent.iterdir()) == [path]
        if returned:
            break
    assert len(steps) > 10 and set(steps) == {1, 2} and steps == sorted(steps)


def test_who_reads_while_another_replaces_finds_it_whole_at_every_instant(tmp_path):
    path, rounds = tmp_path / "weights", 60
    publish(path, 0)
    if not (writer := os.fork()):
        try:
            for step in range(1, rounds + 1):
                publish(path, step)
        finally:
            os._exit(0)
    seen = [0]
    while seen[-1] < rounds:
        assert path.is_dir()
        seen.append(step_of(path))
    assert os.waitpid(writer, 0)[1] == 0
    assert seen == sorted(seen) and len(set(seen)) > 2
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_read_is_the_directory_that_is_held_open(tmp_path, monkeypatch):
    """Another one's number could be given to a third while it is read, which would then look undisturbed."""
    path, real, opened, read = tmp_path / "weights", os.open, [], []
    publish(path, 0)

    def late(name, *more, **named):
        handle = real(name, *more, **named)
        if name == path:
            opened.append(os.fstat(handle).st_ino)
            if len(opened) == 1:
                publish(path, 1)
        return handle

    monkeypatch.setattr(os, "open", late)
    undisturbed(path, lambda: read.append(path.stat().st_ino))
    assert read[-1] == opened[-1]


def test_a_save_without_fsync_would_be_noticed(tmp_path):
    assert list(steps_after_each_crash(Forgetful, tmp_path))[-1] == (2, True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_a_failing_disk_is_one_clear_error_and_the_old_checkpoint_stays(number, tmp_path):
    for last in count():
        directory = tmp_path / f"{last}"
        saved_before(directory)
        try:
            with using(Full(last, number)):
                save_checkpoint(directory, sections(3), keep=2)
        except CheckpointError as error:
            assert "could not be written" in str(error)
        else:
            assert step_of_latest(directory) == 3
            return
        assert step_of_latest(directory) in (2, 3)
        assert not list(directory.glob(".*"))
        shutil.rmtree(directory)


def test_a_full_disk_stops_training_with_the_checkpoint_before_intact(tmp_path):
    data, out = load_data("digits"), tmp_path / "run"
    train(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        data,
        TrainConfig(epochs=1, output=out, display="quiet"),
    )
    kept = list_checkpoints(out)
    config = TrainConfig(epochs=1, output=tmp_path / "full", display="quiet")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="could not be written"):
            train(linear(), data, config)
        with pytest.raises(CheckpointError, match="could not be written"):
            save_checkpoint(out, {"model": {"weight": torch.zeros(1000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert latest_valid(out) == (kept[0], [])
    assert not list_checkpoints(config.output)
    assert not list(config.output.glob(".*"))


def test_a_scan_interrupted_at_any_operation_is_right_and_so_is_the_next(tmp_path, monkeypatch):
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for n in range(2):
            (tmp_path / "data" / label / f"{n}.png").write_bytes(encoded(picture(), "PNG"))
    (tmp_path / "data" / "cat" / "bad.png").write_bytes(b"bad")

    def scanned():
        names = [str(path.relative_to(tmp_path / "data")) for path in (tmp_path / "data").glob("*/*")]
        return dict(zip(names, scan(tmp_path / "data", names, "data"), strict=True))

    monkeypatch.setenv("REGROUP_CACHE", "")
    right, points = scanned(), 0
    for number in (None, *ERRORS):
        for last in count():
            place = tmp_path / f"{number}-{last}"
            monkeypatch.setenv("REGROUP_CACHE", str(place))
            fault = Fault(last, number)
            with faults(monkeypatch, fault, place), suppress(Crash):
                found = scanned()  # images that the system does not read are named, and tried again
                unread = (0, 0), os.strerror(number or 0), False, ""
                assert all(found[name] in (fact, unread) for name, fact in right.items())
            assert scanned() == right and scanned() == right
            if fault.seen <= last:
                break
            points += 1
    assert points > 30
