"""A program in which threads call a network while another changes it, then compiles and drops networks.

    python -m tests.faults.threads CALLS ROUNDS SEED

Eight threads make CALLS calls in all. The changer writes a number into the network and tells it to the
callers when its own call has seen it: no call may give an older one than was told when it began, nor a
mixture. Numbers of threads change in between. Then ROUNDS networks are compiled, called and dropped, and one
network is called with ROUNDS batch sizes and profiled as often; memory, threads and files must stay level. It
prints calls, changes, and by how many KiB, threads and files the later half of the rounds has grown.
"""

import gc
import json
import random
import sys
import threading
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

import regroup
from tests.faults.programs import progress

_CALLERS = 8


def network(filters=8):
    layers = [
        nn.Conv2d(3, filters, 3),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(filters, 5),
    ]
    model = nn.Sequential(*layers).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False).fill_(0)
    return model


class Trial:
    """Eight callers and one changer."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.model, self.x = network(), torch.ones(2, 3, 12, 12)
        self.fast = regroup.compile(self.model, self.x)
        self.told, self.wrong, self.calls, self.changes = 0, [], [0] * _CALLERS, 0

    def result(self, number):
        """Return what every number of the result is where all biases of the last layer are `number`."""
        return torch.full((2, 5), float(number))

    def call(self, place, calls):
        for _ in range(calls):
            oldest = self.told
            y = self.fast(self.x)
            newest = self.told + 1
            number = int(y[0, 0])
            if not torch.equal(y, self.result(number)) or not oldest <= number <= newest:
                self.wrong.append(f"between {oldest} and {newest}: {y.tolist()}")
                return
            self.calls[place] += 1
            time.sleep(0.001)  # so that the changer has its turns

    def change(self, number):
        bias, value = self.model[-1].bias, torch.full((5,), float(number))
        way = self.chance.randrange(6)
        if way == 0:
            bias.data = value
        elif way == 1:
            self.model[-1].bias = nn.Parameter(value)
        elif way == 2:
            with torch.no_grad():  # not copy_: who reads what is being written gets a mixture, in PyTorch too
                bias.set_(value)
        elif way == 3:
            layer = nn.Linear(8, 5).eval()
            layer.weight.data, layer.bias.data = torch.zeros(5, 8), value
            self.model[-1] = layer
        elif way == 4:
            torch.utils.swap_tensors(bias, nn.Parameter(value))
        else:
            self.model[-1].load_state_dict({"weight": torch.zeros(5, 8), "bias": value}, assign=True)

    def run(self, calls):
        threads = [threading.Thread(target=self.call, args=(i, calls // _CALLERS)) for i in range(_CALLERS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            number = self.told + 1
            self.change(number)
            if self.chance.random() < 0.2:
                torch.set_num_threads(self.chance.choice([1, 2, 3]))
            if not torch.equal(self.fast(self.x), self.result(number)):
                self.wrong.append(f"the changer's own call after change {number}")
                break
            self.told, self.changes = number, self.changes + 1
        for thread in threads:
            thread.join()
        if self.wrong:
            sys.exit(f"{len(self.wrong)} calls were wrong: {self.wrong[:3]}")


def resident():
    """Return the memory of this process in KiB."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return int(line.split()[1])


def held():
    """Return what this process has: memory in KiB, threads and open files."""
    threads, files = (sum(1 for _ in Path("/proc/self", what).iterdir()) for what in ("task", "fd"))
    return resident(), threads, files


def compile_and_drop(number):
    """Compile a network, change it, and forget it."""
    model, x = network(8 + number % 3), torch.ones(1, 3, 12, 12)
    fast = regroup.compile(model, x, frozen=number % 4 == 0)
    fast(x)
    model[0].weight.data = model[0].weight.data + 1
    fast(x)


def call_and_profile(trial, number):
    """Call a compiled network with a batch of another size, and profile it."""
    trial.fast(torch.ones(1 + 37 * number % 200, 3, 12, 12))
    regroup.profile(trial.model, torch.ones(1, 3, 12, 12), time=False)


def growth(what, rounds, turn):
    """Return by how much what is held grows in the second half of so many turns."""
    states = []
    for number in range(rounds):
        progress(what, number + 1, rounds)
        turn(number)
        if number in (rounds // 2, rounds - 1):
            gc.collect()
            states.append(held())
    return [after - before for before, after in zip(*states, strict=True)]


def main(calls, rounds, seed):
    trial = Trial(seed)
    trial.run(calls)
    dropped = growth("networks", rounds, compile_and_drop)
    called = growth("batch sizes and profiles", rounds, partial(call_and_profile, trial))
    print(json.dumps({"calls": sum(trial.calls), "changes": trial.changes, "grown": [dropped, called]}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
