"""What `make arm` runs on an emulated CPU: `python -m tests.emulated [PROBLEMS [PATTERN]]`.

PROBLEMS random problems of each kernel template and convolutions, forwards and backwards; then one network of
each family whose name fits PATTERN, compiled. A line for each says after how many seconds it was found right.
What takes long says how much it has computed: an emulator is slow, a busy machine slower, and neither hangs.
What computes nothing any more does, and ends with the tracebacks of its threads.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from random import Random

import torch

from regroup.engine.running.compiled import compile
from regroup.engine.watching.proof import interfaces
from regroup.kernels.machine.target import Target
from regroup.kernels.machine.threads import entry_points
from regroup.networks import create_model, list_models, networks
from regroup.ops.functional import conv2d
from tests.engine.models import randomise, settle
from tests.engine.test_compiled import assert_as_good_as_pytorch
from tests.kernels.problems import MAKERS
from tests.kernels.run import main as kernels
from tests.networks.representatives import side, small
from tests.processes import in_fork

_LOOK, _IDLE = 60, 0.5
"""After how many seconds there is a look; less computed since the one before, and threads wait for ever."""


@contextmanager
def watched(what: str, look: float = _LOOK) -> Iterator[None]:
    """Tell, while something goes on, how many seconds it has computed; end the process if it only waits."""
    over = threading.Event()

    def watch() -> None:
        first = last = time.process_time()
        while not over.is_set():
            for _ in range(60):  # a process that was stopped has not waited
                if over.wait(look / 60):
                    return
            now = time.process_time()
            print(f"{'':10}{what}: has computed {now - first:.0f} s", flush=True)
            if now - last < _IDLE * look / _LOOK:
                print(f"{'':10}{what}: its threads wait for ever", flush=True)
                faulthandler.dump_traceback()
                os._exit(1)
            last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def families() -> list[str]:
    """Return the network of the fewest multiply-adds of each kind of backbone."""
    lightest: dict[object, str] = {}
    for name in list_models():
        kind, cost = networks[name].build, networks[name].claims.mega_macs
        if kind not in lightest or cost < networks[lightest[kind]].claims.mega_macs:
            lightest[kind] = name
    return sorted(lightest.values())


def operators(seed: int) -> None:
    """Hold a random convolution of integers, and its gradients, to what float64 gives, which is exact."""
    chance = Random(seed)
    groups, size = chance.choice([1, 2, 4, 8]), chance.randrange(5, 12)
    options = {"stride": chance.choice([1, 2]), "padding": chance.choice([0, 1]), "groups": groups}
    x = torch.randint(-3, 4, (2, 8 * groups, size, size)).float().requires_grad_()
    w = torch.randint(-3, 4, (4 * groups, 8, 3, 3)).float().requires_grad_()
    y = conv2d(x, w, **options)
    g = torch.randint(-3, 4, y.shape).float()
    got = [y, *torch.autograd.grad(y, (x, w), g)]
    a, b = (t.detach().double().requires_grad_() for t in (x, w))
    right = torch.nn.functional.conv2d(a, b, **options)
    for one, other in zip(got, [right, *torch.autograd.grad(right, (a, b), g.double())], strict=True):
        assert torch.equal(one.double(), other), options


def network(name: str) -> None:
    """Compile a small form of a network, and hold it to PyTorch in float64, on one thread and on two."""
    torch.manual_seed(0)
    try:
        model = randomise(create_model(name, **small(name)))
    except (TypeError, ValueError):
        model = randomise(create_model(name))
    x = torch.randn(2, 3, side(name), side(name))
    settle(model, x)
    for threads in (1, 2):
        assert_as_good_as_pytorch(model, compile(model, x, threads=threads)(x), x)


def main(problems: int = 8, pattern: str = "*") -> None:
    """Run all."""
    torch.set_num_threads(2)
    started = time.monotonic()

    def said(what: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {what}", flush=True)

    said(f"{platform.machine()}, {Target.host().name}, PyTorch {torch.__version__}")
    said(f"PyTorch's threads: {entry_points() is not None}; looks at objects: {interfaces() is not None}")
    for family in MAKERS:
        done = in_fork(kernels, family, 1, problems)
        assert done.stdout.endswith(f"passed {problems}\n"), done.stdout[-500:] + done.stderr[-2000:]
        said(f"{problems} problems of {family}")
    for seed in range(problems):
        operators(seed)
    said(f"{problems} convolutions, forwards and backwards")
    chosen = [name for name in families() if fnmatch(name, pattern)]
    for name in chosen:
        with watched(name):
            network(name)
        said(name)
    said(f"passed: {len(MAKERS)} templates, {len(chosen)} networks")


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, str), sys.argv[1:], strict=False)))
