"""A program that does `regroup train` in forks of itself, disturbs each, and prints as JSON how it ended.

    python -m tests.faults.signals DIRECTORY

A fork begins at once; it goes through the interpreter's end as any command does.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import timm.optim
import timm.scheduler
import timm.utils
import torch._dynamo

from regroup.cli import main, train
from regroup.networks.anywhere import create_any_model
from regroup.training import load_data
from regroup.training.checkpoint import list_checkpoints

__all__ = ["timm", "torch", "train"]  # imported above, before the forks, only to save them the time

HOURS = ("--epochs", "100000", "--recovery-interval", "1", "--display", "quiet")


def forked(output, options, descriptors):
    """Start a run whose streams go to the files or pipes `descriptors` (by number of the stream)."""
    pid = os.fork()
    if not pid:
        for stream, descriptor in descriptors.items():
            os.dup2(descriptor, stream)
        main(["train", "--batch-size", "256", "--image", "4", "--out", str(output), *options])
    return pid


def ended(pid, within):
    """Return the exit status of a process, or None if it takes longer; then it is killed."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def signalled(directory, number):
    """A run that would take hours, once it has written a checkpoint."""
    with (directory / "stderr").open("wb") as errors:
        pid = forked(directory / "run", HOURS, {2: errors.fileno()})
    while not list_checkpoints(directory / "run"):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), (directory / "stderr").read_text()
        time.sleep(0.02)
    os.kill(pid, number)
    return ended(pid, within=120)  # a bound of hanging, not of speed


def unseen(directory):
    """As `regroup train ... 2>&1 | head -1` under nohup: the pipe is closed after the first line."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    reader, writer = os.pipe()
    os.set_inheritable(reader, False)
    pid = forked(directory / "run", ("--epochs", "3"), {1: writer, 2: writer})
    signal.signal(signal.SIGHUP, before)
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        first = lines.readline().decode()
    os.kill(pid, signal.SIGHUP)
    return [first, ended(pid, within=120)]


def each(directory):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever tests below nohup ignores it
    load_data("digits"), create_any_model("resnet_small")  # what these import, the forks need not
    for name in ("interrupted", "hung-up", "unseen"):
        (directory / name).mkdir()
    return {
        "interrupted": signalled(directory / "interrupted", signal.SIGINT),
        "hung-up": signalled(directory / "hung-up", signal.SIGHUP),
        "unseen": unseen(directory / "unseen"),
    }


if __name__ == "__main__":
    print(json.dumps(each(Path(sys.argv[1]))))
