"""A program, `main`, that trains with two processes, then with one that accumulates; prints both as JSON."""

import json
import os
import socket
import sys

import torch
import torch._dynamo  # DistributedDataParallel imports it: once here, not in every process
from torch import nn

import regroup
from regroup.training import train
from tests.training.cases import config, data


def network():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def outcome(**changes):
    torch.set_num_threads(1)
    model, told = network(), []
    history = train(model, data(count=100), config(**changes), on_epoch=told.append)
    assert told == history.epochs
    return {
        "weights": [parameter.tolist() for parameter in model.parameters()],
        "buffers": [buffer.tolist() for buffer in model.buffers()],
        "grouping": regroup.groupings(model),
        "results": [{**r.line(), "seconds": 0, "images_per_second": 0} for r in history.epochs],
    }


def in_fork(rank, port, path, outcome, parts):
    pid = os.fork()
    if pid:
        return pid
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ.update({**common, "RANK": str(rank), "LOCAL_RANK": "0"})
    code = 1
    try:
        path.write_text(json.dumps(outcome(batch_size=8, grad_accum_steps=parts)))
        code = 0
    finally:
        os._exit(code)


def pair(directory, parts, outcome=outcome):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = [directory / f"rank{rank}" for rank in range(2)]
    for pid in [in_fork(rank, port, path, outcome, parts) for rank, path in enumerate(paths)]:
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            sys.exit("a process failed")
    return [json.loads(path.read_text()) for path in paths]


def main(directory):
    outcomes = {}
    for parts in (1, 2):
        outcomes[f"pair{parts}"] = pair(directory, parts)
        outcomes[f"alone{parts}"] = outcome(batch_size=8, grad_accum_steps=2 * parts)
    print(json.dumps(outcomes))
