"""A program that puts damaged files before everything that reads them, and prints what went wrong, as JSON.

    python -m tests.faults.sweep DIRECTORY SEED KIND=COUNT...

It is a process of its own because its memory is limited: what is allocated beyond `memory` is a failure.
"""

import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from PIL import Image

from regroup.cli import main as regroup_main
from regroup.errors import RegroupError
from tests.faults import sweep_commands, sweep_readers, sweep_sets
from tests.faults.programs import progress

KINDS = {
    "images": sweep_readers.images,
    "documents": sweep_readers.documents,
    "tensors": sweep_readers.tensors,
    "caches": sweep_readers.caches,
    "directories": sweep_commands.directories,
    "commands": sweep_commands.commands,
    "sets": sweep_sets.sets,
}

PATIENCE = int(os.environ.get("REGROUP_PATIENCE", "200"))
"""Seconds for one file in one reader, on a busy machine."""


class Hang(BaseException):
    """It took too long."""


class Sweep:
    """Counts what was tried, and keeps what is no right outcome."""

    def __init__(self, kind, directory, count, seed):
        self.kind, self.directory, self.count, self.chance = kind, directory, count, random.Random(seed)
        self.tried, self.refused, self.wrong, self.said = 0, 0, [], ""

    @property
    def memory(self):
        """Bytes beyond those of the process before: an image of the most pixels takes most of two GB."""
        return (2 if self.kind == "images" else 1) << 30

    def turns(self):
        """Yield the numbers of the turns; so long, memory is limited."""
        limit(self.memory)
        for n in range(self.count):
            yield n
            progress(f"damaged {self.kind}", n + 1, self.count)
        limit(None)

    def command(self, what, *argv):
        """Run a command, and return its status and what it printed.

        Right is status 0, or 1 or 2 with one line that is no accident, and perhaps a list of images below it.
        """
        out, err, status = io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), self.watched(what):
            try:
                regroup_main(list(map(str, argv)))
            except SystemExit as exit:
                status = exit.code
        self.said = err.getvalue()
        lines = [line for line in self.said.splitlines() if not line.startswith("  ")]
        self.refused += status in (1, 2)
        accident = "should not have happened" in self.said or "not enough memory" in self.said
        if status not in (0, 1, 2) or accident or (status and len(lines) != 1):
            self.wrong.append([what, status, self.said[-400:]])
        return status, out.getvalue()

    def call(self, what, function, *arguments):
        """Call a function: a value, or an error that regroup raises knowingly."""
        with self.watched(what):
            try:
                return function(*arguments)
            except RegroupError as error:
                self.refused += 1
                if not str(error).replace("\n", "").isprintable() or "memory" in str(error):
                    self.wrong.append([what, "error", str(error)[:400]])
            except (Exception, RecursionError) as error:
                self.wrong.append([what, type(error).__name__, str(error)[:400]])
        return None

    @contextlib.contextmanager
    def watched(self, what):
        """End what takes too long: Python by an exception, C with the process."""
        self.tried += 1
        (self.directory / "now").write_text(what)
        signal.alarm(PATIENCE)
        faulthandler.dump_traceback_later(2 * PATIENCE, exit=True, file=sys.__stderr__)
        try:
            yield
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()


def limit(extra):
    """Let this process allocate so much beyond what it has; None is any amount."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = resource.RLIM_INFINITY if extra is None else pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def hang(number, frame):
    raise Hang


def main(directory, seed, counts):
    os.environ["REGROUP_CACHE"] = str(directory / "cache")
    os.fsync = lambda handle: None  # nobody pulls the plug here
    signal.signal(signal.SIGALRM, hang)
    torch.set_num_threads(1)
    Image.init()
    results = {}
    for kind, count in counts.items():
        (directory / kind).mkdir()
        sweep = Sweep(kind, directory / kind, count, seed)
        start = time.process_time()
        KINDS[kind](sweep)
        results[kind] = {"tried": sweep.tried, "refused": sweep.refused, "wrong": sweep.wrong[:20]}
        results[kind] |= {"seconds": round(time.process_time() - start, 1)}
    results["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps(results))


if __name__ == "__main__":
    wanted = dict(argument.split("=") for argument in sys.argv[3:])
    main(Path(sys.argv[1]), int(sys.argv[2]), {kind: int(count) for kind, count in wanted.items()})
