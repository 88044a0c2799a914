"""A program that does the same work undisturbed and under kill -9, and prints what came out, as JSON.

    python -m tests.faults.trials DIRECTORY SEED WORK:PROCESSES=KILLS...

WORK is a key of `WORK`; `compile` has an empty cache. Each run is a fork of this process, so that
it starts at once and most kills hit the work itself.
"""

import gc
import hashlib
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import timm.optim
import timm.scheduler
import timm.utils
import torch
from torch import nn

from regroup.training import TrainConfig, train
from tests.faults import runs
from tests.faults.programs import progress
from tests.training.cases import data as images

__all__ = ["timm"]  # imported above, before the forks, only to save them the time


class Swish(nn.Module):
    """A little state of every kind: a parameter, a float buffer and a counter."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return x * torch.sigmoid(self.beta * x)


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        Swish(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def few():
    """Images for eight steps an epoch, so that beginnings, checkpoints and ends are hit often."""
    return images(count=256, shape=(1, 8, 8), classes=10)


def config(output, **changes):
    settings = {
        "epochs": 2,
        "batch_size": 32,
        "opt": "adamw",
        "lr": 0.01,
        "warmup_epochs": 1,
        "mixup": 0.2,
        "clip_grad": 1.0,
        "model_ema": True,
        "model_ema_warmup": True,
        "recovery_interval": 3,
        "output": output,
        "resume": True,
        "device": "cpu",
        "display": "quiet",
    }
    return TrainConfig(**{**settings, **changes})


def digest(model):
    seen = hashlib.sha256()
    for name, value in model.state_dict().items():
        seen.update(name.encode() + value.numpy().tobytes())
    return seen.hexdigest()


def trained(output):
    """Train, and return the hash of the weights."""
    model = network()
    train(model, few(), config(output))
    return digest(model)


def compared(output):
    """Compare, and return what was found and the hashes of all weights."""
    found = runs.compared(output)
    kept = {name: seen for name, seen in runs.contents(output).items() if name.endswith(".safetensors")}
    return json.dumps([found, kept])


def compared_elsewhere(output):
    """The same with the trainings on other machines, which go on when this process is killed."""
    found = runs.compared_elsewhere(output)
    kept = {name: seen for name, seen in runs.contents(output).items() if name.endswith(".safetensors")}
    return json.dumps([found, kept])


def shared(output):
    """Train in processes that share the network's channels, and return the hash of the weights."""
    return runs.trained_shared(output)


def compiled(output):
    """Compile with the directory as cache, and return what was computed."""
    return json.dumps(runs.compiled(output))


def converted(output):
    """Convert, and return the hashes of what came out."""
    return json.dumps(runs.converted(output))


WORK = {"train": trained, "share": shared, "compare": compared, "elsewhere": compared_elsewhere}
WORK |= {"compile": compiled, "convert": converted}


def forked(work, output, environment, *where):
    """Start some work in a fork; it writes what came out beside `output`, where it works without `where`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(environment)
        result = work(*(where or [output]))
        rank = environment.get("RANK", "0")
        output.with_name(f"{output.name}.rank{rank}").write_text(result)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def started(work, output, processes, *where):
    """Start one run of `processes` processes; return their process ids."""
    if processes == 1:
        return [forked(work, output, {}, *where)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    ranks = [{**common, "RANK": str(r), "LOCAL_RANK": "0"} for r in range(processes)]
    return [forked(work, output, rank, *where) for rank in ranks]


def finished(pids, within):
    """Wait for all of `pids`, and kill them after `within` seconds; return whether they ended before."""
    deadline = time.monotonic() + within
    left, codes = set(pids), []
    while left and time.monotonic() < deadline:
        for pid in tuple(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                left.remove(pid)
                codes.append(os.waitstatus_to_exitcode(status))
        time.sleep(0.001)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not left and any(codes):
        sys.exit(f"a run failed by itself: exit codes {codes}")
    return not left


def results(output, processes):
    return [output.with_name(f"{output.name}.rank{rank}").read_text() for rank in range(processes)]


def killed(work, directory, processes, kills, chance):
    """Do some work undisturbed, then again and again under so many kills in all; return what came out."""
    directory.mkdir()
    start = time.monotonic()
    if not finished(started(work, directory / "undisturbed", processes), within=120):
        sys.exit("the undisturbed run did not end")
    duration, done, ends = time.monotonic() - start, 0, []
    while done < kills:
        output = directory / f"killed-{len(ends)}"
        while done < kills and not finished(started(work, output, processes), chance.uniform(0, duration)):
            done += 1
            progress(f"kills of {directory.name}", done, kills)
        if not finished(started(work, output, processes), within=120):
            sys.exit("what was begun again did not end")
        ends.append(results(output, processes))
    undisturbed = results(directory / "undisturbed", processes)
    return {"undisturbed": undisturbed, "ends": ends, "killed": done, "seconds": duration}


def main(directory, seed, wanted):
    torch.set_num_threads(1)
    torch.ones((), requires_grad=True).backward()  # later it might begin threads, which forks do not have
    if "convert:1" in wanted:
        converted(directory / "warm")  # what it imports is there for all forks
    gc.freeze()
    found = {}
    for name, kills in wanted.items():
        work, _, processes = name.partition(":")
        place, chance = directory / f"{work}-{processes}", random.Random(f"{seed} {name}")
        found[name] = killed(WORK[work], place, int(processes), int(kills), chance)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), dict(each.split("=") for each in sys.argv[3:]))
