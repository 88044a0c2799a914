"""A program in which several processes meet in one directory, again and again; prints what came out as JSON.

    python -m tests.faults.meetings PROCESSES TRIALS DIRECTORY SEED [KIND...]

Each process is a fork of this one, so that all start at once, or nearly.
"""

import gc
import json
import os
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from regroup.errors import RegroupError
from tests.faults import runs
from tests.faults.programs import progress
from tests.faults.trials import finished, results, started


def resume(directory, number):
    return runs.trained(directory)


def begin(directory, number):
    """Train without `resume`, each with a seed of its own: one may, the others are told."""
    return runs.trained(directory, seed=number, resume=False)


def refuse(directory, number):
    """... and do not wait."""
    return runs.trained(directory, seed=number, resume=False, wait=False)


def compare(directory, number):
    return runs.compared(directory)


def elsewhere(directory, number):
    """Compare, with the trainings on other machines."""
    return runs.compared_elsewhere(directory)


def share(directory, number):
    """Resume, each in two processes that share the network's channels."""
    with tempfile.TemporaryDirectory() as place:
        pids = started(runs.trained_shared, Path(place) / "of", 2, directory)
        assert finished(pids, within=120)
        first, second = results(Path(place) / "of", 2)
    assert first == second
    return first


def compile(directory, number):
    """Compile a network with the directory as the cache of its kernels, which all begin to fill."""
    return runs.compiled(directory)


def convert(directory, number):
    return runs.converted(directory)


def convert_at_once(directory, number):
    """... and do not wait."""
    return runs.converted(directory, wait=False)


def forked(what, directory, number, delay):
    pid = os.fork()
    if pid:
        return pid
    try:
        with suppress(BaseException):
            time.sleep(delay)
            try:
                outcome = {"result": what(directory / "out", number)}
            except RegroupError as error:
                outcome = {"error": str(error)}
            except BaseException as error:
                outcome = {"traceback": repr(error)}
            (directory / f"{number}.json").write_text(json.dumps(outcome))
    finally:
        os._exit(0)


KINDS = (resume, begin, refuse, compare, elsewhere, share, compile, convert, convert_at_once)


def met(what, processes, trials, directory, chance):
    alone = [what(directory / f"alone-{n}" / "out", n) for n in range(processes)]
    gc.freeze()
    outcomes = []
    for trial in range(trials):
        place = directory / f"{trial}"
        place.mkdir(parents=True)
        pids = [forked(what, place, n, chance.choice([0, 0, 0.02, 0.1, 0.3])) for n in range(processes)]
        ended = finished(pids, within=120)
        found = [json.loads(path.read_text()) for path in sorted(place.glob("*.json"))]
        beside = sorted(path.name for path in place.iterdir() if path.suffix != ".json")
        left = sorted(runs.contents(place / "out"))
        outcomes.append({"ended": ended, "found": found, "left": left, "beside": beside})
        progress(f"meetings of {processes}, {what.__name__}", trial + 1, trials)
    return {"outcomes": outcomes, "alone": alone}


def main(processes, trials, directory, seed, names):
    torch.set_num_threads(1)
    torch.ones((), requires_grad=True).backward()  # later it might begin threads, which forks do not have
    chance = random.Random(seed)
    kinds = [what for what in KINDS if not names or what.__name__ in names]
    found = {what.__name__: met(what, processes, trials, directory / what.__name__, chance) for what in kinds}
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
