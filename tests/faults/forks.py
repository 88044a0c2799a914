"""A program that forks at random moments while threads call, compile and change: no child may hang.

    python -m tests.faults.forks FORKS SEED

The parent runs on two threads, so that OpenMP's are left behind by every fork. Each child calls what the
parent compiled, changes its weights, compiles another network with and without the cache of kernels, and runs
an operator that is PyTorch's; it has a minute. It prints how many forks were made.
"""

import faulthandler
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import torch
from torch import nn

import regroup
from tests.faults.programs import progress

_SECONDS = 60


def network(filters):
    """Return a network of whole numbers: a bias of 1 more is a result of 1 more."""
    layers = [
        nn.Conv2d(3, filters, 3),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(filters, 70),
    ]
    model = nn.Sequential(*layers, nn.Linear(70, 500)).eval()
    for parameter in model.parameters():
        parameter.data = (torch.arange(parameter.numel()) % 7 - 3).reshape(parameter.shape).float()
    return model


class Erf(nn.Module):
    """Something that is left to PyTorch, on so many numbers that it would take several threads."""

    def forward(self, x):
        return torch.special.erfcx(x.repeat(1, 40, 1, 1) * 0)


class Trial:
    """A compiled network, threads that use and change it, and forks."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.model, self.x = network(8), (torch.arange(2 * 3 * 40 * 40) % 5 - 2).reshape(2, 3, 40, 40).float()
        self.other, self.left = network(16), Erf().eval()
        self.fast, self.pytorch = regroup.compile(self.model, self.x), regroup.compile(self.left, self.x)
        with torch.no_grad():
            self.model[-1].bias.fill_(0)
            self.want, self.want_of_other = self.model(self.x), self.other(self.x)
            self.want_of_left = self.left(self.x)
        self.errors, self.stop = [], threading.Event()

    def call(self):
        base = self.want[0, 0]
        while not self.stop.is_set():
            y = self.fast(self.x)
            shift = y[0, 0] - base
            if not torch.equal(y - shift, self.want):
                self.errors.append("a call was wrong")
            self.pytorch(self.x)

    def change(self):
        number = 0
        while not self.stop.is_set():
            number = (number + 1) % 50
            # all at once: who reads what is being written in place gets a mixture, in PyTorch too
            self.model[-1].bias.data = torch.full((500,), float(number))
            time.sleep(0.002)

    def compile(self):
        number = 0
        while not self.stop.is_set():
            number = (number + 1) % 12
            os.environ["REGROUP_CACHE"] = "" if number % 2 else self.cache
            y = regroup.compile(network(8 + number % 4), self.x, frozen=number % 3 == 0)(self.x)
            if y.shape != (2, 500):
                self.errors.append("a compilation was wrong")

    def child(self):
        """Return what is wrong in a child, at its first moment."""
        with torch.no_grad():
            self.model[-1].bias.fill_(3)
        if not torch.equal(self.fast(self.x), self.want + 3):
            return "a call"
        self.model[-1].bias = nn.Parameter(torch.full((500,), 5.0))
        if not torch.equal(self.fast(self.x), self.want + 5):
            return "a call after a change"
        for cache in (self.cache, ""):
            os.environ["REGROUP_CACHE"] = cache
            if not torch.equal(regroup.compile(self.other, self.x)(self.x), self.want_of_other):
                return "another network"
        if not torch.equal(regroup.compile(self.other, self.x, frozen=True)(self.x), self.want_of_other):
            return "a frozen network"
        # PyTorch itself must not compare so many numbers here
        if not np.array_equal(self.pytorch(self.x).numpy(), self.want_of_left.numpy()):
            return "PyTorch's operator"
        if "one thread in a forked process" not in self.fast.explain():
            return "what explain() says"
        return ""

    def fork(self):
        """Fork; return how the child ended."""
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.alarm(_SECONDS)
            wrong = self.child()
            if wrong:
                print(f"child: {wrong} is wrong", file=sys.stderr, flush=True)
            os._exit(1 if wrong else 0)
        except BaseException as error:
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(2)

    def run(self, forks):
        self.cache = os.environ["REGROUP_CACHE"]
        threads = [threading.Thread(target=run) for run in (self.call, self.call, self.change, self.compile)]
        for thread in threads:
            thread.start()
        ends = []
        try:
            for _ in range(forks):
                time.sleep(self.chance.uniform(0, 0.1))
                pid = self.fork()
                ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                if ends[-1]:
                    break
                progress("forks", len(ends), forks)
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        if any(ends) or self.errors:
            sys.exit(f"after {len(ends)} forks a child ended with {ends[-1]}; {self.errors[:3]}")
        return len(ends)


def main(forks, seed):
    faulthandler.enable()
    torch.set_num_threads(2)
    print(Trial(seed).run(forks))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
