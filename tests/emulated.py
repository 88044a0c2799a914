"""What `make arm` runs on an emulated CPU: `python -m tests.emulated [PROBLEMS [PATTERN]]`.

PROBLEMS random problems of each kernel template and convolutions, forwards and backwards; then one network of
each family whose name fits PATTERN, compiled. A line for each says after how many seconds it was found right.
"""

from __future__ import annotations

import platform
import sys
import time
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
        network(name)
        said(name)
    said(f"passed: {len(MAKERS)} templates, {len(chosen)} networks")


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, str), sys.argv[1:], strict=False)))
