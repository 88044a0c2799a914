"""A program that puts damaged files before everything that reads them, and prints what went wrong, as JSON.

    python -m tests.faults.sweep DIRECTORY SEED KIND[:COMMAND]=COUNT...

Of commands only those are tried whose names begin with COMMAND.
What is undamaged is made once. Then a fork of the program does some hundred turns, the next fork the next
ones: all begin warm, none sees what another left in memory, and one that dies is only a turn that went wrong.
In a fork memory is limited: what is allocated beyond `memory` is a failure. A turn is made by the seed
and its number alone, and pieces that are done are kept in DIRECTORY/done: the same call goes on from there.
"""

import contextlib
import faulthandler
import gc
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

import torch
import tyro
from PIL import Image

from regroup.cli import main as regroup_main
from regroup.errors import RegroupError
from tests.faults import (
    runs,
    sweep_commands,
    sweep_made,
    sweep_onnx,
    sweep_places,
    sweep_readers,
    sweep_sets,
    sweep_tasks,
)
from tests.faults.programs import progress

KINDS = {
    "images": sweep_readers.images,
    "documents": sweep_readers.documents,
    "tensors": sweep_readers.tensors,
    "caches": sweep_readers.caches,
    "directories": sweep_commands.directories,
    "folders": sweep_commands.folders,
    "commands": sweep_commands.commands,
    "conversions": sweep_made.conversions,
    "sets": sweep_sets.sets,
    "tasks": sweep_tasks.tasks,
    "places": sweep_places.places,
    "onnx": sweep_onnx.files,
}

PATIENCE = int(os.environ.get("REGROUP_PATIENCE", "200"))
"""Seconds for one file in one reader, on a busy machine."""


ACCIDENTS = ("should not have happened", "enough memory", "more memory than")


class Hang(BaseException):
    """It took too long."""


PIECE = 250
"""Turns of one fork."""


class Sweep:
    """Counts what was tried, and keeps what is no right outcome.

    Attributes:
        tried: how often each thing that reads was tried, by its name.
        refused: how often it said that it cannot read.
        wrong: what went wrong, a list of texts each.
        grown: bytes of memory that a fork had at most beyond those that it began with.
    """

    def __init__(self, kind, directory, count, seed):
        self.kind, _, self.only = kind.partition(":")
        self.directory, self.count, self.seed = directory / kind, count, seed
        self.pieces = directory / "done"
        self.chance, self.tried, self.refused, self.wrong, self.grown = None, Counter(), 0, [], 0
        self.said, self.number = "", 0

    @property
    def memory(self):
        """Bytes beyond those of the process before: an image of the most pixels takes most of two GB."""
        return (2 if self.kind in ("images", "folders", "tasks", "places") else 1) << 30

    def each(self, turn, restore=lambda: None):
        """Call `turn` with the numbers of all turns; `restore` puts right what a fork that died has left."""
        self.pieces.mkdir(exist_ok=True)
        gc.freeze()  # what is there stays, and no fork need look through it
        first = 0
        while first < self.count:
            kept = self.pieces / f"{self.directory.name}-{first}.json"
            if not kept.exists():
                self._fork(turn, first, kept)
            piece = json.loads(kept.read_text())
            self.tried += Counter(piece["tried"])
            self.refused += piece["refused"]
            self.wrong += piece["wrong"]
            self.grown = max(self.grown, piece["grown"])
            if piece["died"]:
                restore()
            progress(f"damaged {self.kind}", piece["end"], self.count, since=first)
            first = piece["end"]

    def _fork(self, turn, first, kept):
        """Do the turns of a piece in a fork; `kept` says what came out, also if it died."""
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            try:
                self._piece(turn, first, kept)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if kept.exists():
            return
        at, what = (self.directory / "now").read_text().split(": ", 1)
        how = os.waitstatus_to_exitcode(status)
        piece = {"end": int(at) + 1, "tried": {what: 1}, "refused": 0, "grown": 0, "died": True}
        kept.write_text(json.dumps({**piece, "wrong": [[f"{at}: {what}", "died", how]]}))

    def _piece(self, turn, first, kept):
        self.tried, self.refused, self.wrong, end = Counter(), 0, [], min(first + PIECE, self.count)
        begun = memory("VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (begun + self.memory, resource.RLIM_INFINITY))
        for self.number in range(first, end):
            self.chance = random.Random(f"{self.seed} {self.kind} {self.number}")
            turn(self.number)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        piece = {"end": end, "tried": self.tried, "refused": self.refused, "wrong": self.wrong, "died": False}
        whole = json.dumps({**piece, "grown": memory("VmPeak") - begun})
        kept.with_suffix(".part").write_text(whole)
        kept.with_suffix(".part").rename(kept)

    def command(self, name, what, *argv):
        """Run a command, and return its status and what it printed.

        Right is status 0, or 1 or 2 with one line that is no accident, perhaps images below it, and notes.
        """
        out, err, status = io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), self.watched(name, what):
            try:
                regroup_main(list(map(str, argv)))
            except SystemExit as exit:
                status = exit.code
        self.said = err.getvalue()
        notes = ("  ", "copying ", "waiting for ")
        lines = [line for line in self.said.splitlines() if not line.startswith(notes)]
        self.refused += status in (1, 2)
        accident = (
            "should not have happened" in self.said
            or "enough memory" in self.said
            or "more memory than" in self.said
        )
        if status not in (0, 1, 2) or accident or (status and len(lines) != 1):
            self.fail(name, what, status, self.said[-1200:])
        return status, out.getvalue()

    def call(self, name, what, function, *arguments):
        """Call a function: a value, or an error that regroup raises knowingly."""
        with self.watched(name, what):
            try:
                return function(*arguments)
            except RegroupError as error:
                self.refused += 1
                if not str(error).replace("\n", "").isprintable() or "memory" in str(error):
                    self.fail(name, what, "error", str(error)[:400])
            except (Exception, RecursionError) as error:
                self.fail(name, what, type(error).__name__, str(error)[:400])
        return None

    def fail(self, name, what, *found):
        """Keep what is no right outcome."""
        self.wrong.append([f"{self.number}: {name}: {what}", *found])

    @contextlib.contextmanager
    def watched(self, name, what):
        """End what takes too long: Python by an exception, C with the process."""
        self.tried[name] += 1
        (self.directory / "now").write_text(f"{self.number}: {name}: {what}")
        signal.alarm(PATIENCE)
        faulthandler.dump_traceback_later(2 * PATIENCE, exit=True, file=sys.__stderr__)
        try:
            yield
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()


def memory(what):
    """Return an amount of memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith(f"{what}:")]
    return int(kilobytes) << 10


def hang(number, frame):
    raise Hang


def main(directory, seed, counts):
    os.environ["REGROUP_CACHE"] = str(directory / "cache")
    os.fsync = lambda handle: None  # nobody pulls the plug here
    tyro.cli = runs.remembered(tyro.cli)
    signal.signal(signal.SIGALRM, hang)
    torch.set_num_threads(1)
    Image.init()
    results = {}
    for kind, count in counts.items():
        shutil.rmtree(directory / kind, ignore_errors=True)
        (directory / kind).mkdir()
        sweep = Sweep(kind, directory, count, seed)
        start = seconds()
        KINDS[sweep.kind](sweep)
        found = {"tried": sweep.tried, "refused": sweep.refused, "wrong": sweep.wrong[:20]}
        results[kind] = {**found, "megabytes": sweep.grown >> 20, "seconds": round(seconds() - start, 1)}
    print(json.dumps(results))


def seconds():
    """Return the time of the processor that this program and its forks have had."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    wanted = dict(argument.split("=") for argument in sys.argv[3:])
    main(Path(sys.argv[1]), int(sys.argv[2]), {kind: int(count) for kind, count in wanted.items()})
