"""Compiled networks where PyTorch is in another mode, in other threads and processes, or set otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from regroup.engine.running.compiled import compile
from regroup.engine.running.plan import NativeSegment
from regroup.errors import EngineError, ParameterError


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return _network()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 12, 12)


@pytest.fixture(scope="module")
def fast(model, x):
    return compile(model, x)


MODES = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "another default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_changes_nothing(model, fast, x, mode):
    context: AbstractContextManager = MODES[mode]()
    want = fast(x)
    with context:
        got, compiled_here = fast(x), compile(model, x)
    assert torch.equal(got, want) and torch.equal(compiled_here(x), want)
    assert [type(s) for s in compiled_here._prepared.plan(2).segments] == [NativeSegment]


def test_what_pytorch_runs_in_between_is_float32_too(x):
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.weight = nn.Conv2d(3, 4, 3, padding=1), nn.Parameter(torch.randn(12, 5))

        def forward(self, x):
            return self.conv(x).transpose(0, 1) @ self.weight

    model = Between().eval()
    fast = compile(model, x)
    assert any(not isinstance(segment, NativeSegment) for segment in fast._prepared.plan(2).segments)
    want = fast(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = fast(x)
    assert got.dtype == torch.float32 and torch.equal(got, want)


def test_forward_mode_derivatives_are_those_of_the_model(model, fast, x):
    tangents = []
    for network in (model, fast):
        with forward_ad.dual_level():
            tangents.append(forward_ad.unpack_dual(network(forward_ad.make_dual(x, x * 2))).tangent)
    assert torch.equal(*tangents)


def test_another_default_type_changes_nothing(model, fast, x):
    want = fast(x)
    torch.set_default_dtype(torch.float64)
    assert torch.equal(fast(x), want) and torch.equal(compile(model, x)(x), want)


def test_a_network_made_in_inference_mode_must_be_frozen(x):
    with torch.inference_mode():
        model = _network()
    with pytest.raises(EngineError, match="frozen=True"):
        compile(model, x)
    assert torch.equal(compile(model, x, frozen=True)(x), compile(_network(), x)(x))


def test_a_view_that_stands_for_the_negative_numbers_is_read_as_such(fast, x):
    assert torch.equal(fast(torch._neg_view(x)), fast(-x))


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (None, torch.zeros(1, 3, 8, 8), "NoneType"),
        (nn.Identity().eval(), None, "no example"),
        (nn.Identity().eval(), {"x": torch.zeros(1, 3)}, "does not take such an example"),
        (nn.Identity().eval(), [], "no example"),
        (nn.Conv2d(3, 4, 1).eval().half(), torch.zeros(1, 3, 8, 8), "float16"),
    ],
)
def test_what_cannot_be_compiled_is_one_clear_error(model, example, message):
    with pytest.raises(EngineError, match=message):
        compile(model, example)


def test_an_image_of_other_channels_is_the_error_that_pytorch_gives(model):
    wrong = torch.randn(1, 4, 12, 12)
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        compile(model, wrong)(wrong)


def test_a_network_that_changes_its_own_state_is_left_to_pytorch(x):
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    fast = compile(Counting().eval(), x)
    assert torch.equal(fast(x), x) and torch.equal(fast(x), 2 * x)
    assert "a tensor of its own" in fast.explain()


def test_memory_of_calls_that_have_ended_is_used_again_and_bounded(fast, x):
    threads = [threading.Thread(target=fast, args=(x,)) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (segment,) = fast._prepared.plan(2).segments
    assert sum(map(len, segment._calls.values())) <= 2 * (os.cpu_count() or 1) + 1
    torch.set_num_threads(2)
    fast(x)
    assert [key[0] for key in segment._calls] == [2], "for numbers of threads that are no more in use"


def test_a_network_has_a_number_of_threads_of_its_own(model, x):
    torch.set_num_threads(1)
    plain, fast = compile(model, x), compile(model, x, threads=3)
    assert plain.threads is None
    (segment,) = fast._prepared.plan(2).segments
    for threads, used in ((3, 3), (2, 2), (None, 1)):
        fast.threads = threads
        assert torch.equal(fast(x), plain(x))
        assert [key[0] for key in segment._calls] == [used]
        assert fast.explain(json=True)["threads"] == used
        assert f"threads: {used}\n" in repr(fast)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_are_a_number(model, x, threads):
    with pytest.raises(ParameterError, match="threads"):
        compile(model, x, threads=threads)
    fast = compile(model, x)
    with pytest.raises(ParameterError, match="threads"):
        fast.threads = threads
    assert fast.threads is None


_SCRIPT = """
import torch
from torch import nn
torch.set_num_threads(2)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
x = torch.randn(2, 3, 64, 64)
"""


def _in_a_new_process(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT + script], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.slow
def test_pytorch_finds_the_backend_without_an_import():
    script = """
compiled = torch.compile(model, backend="regroup")
with torch.no_grad():
    print((compiled(x) - model(x)).abs().max().item() < 1e-5)
"""
    assert _in_a_new_process(script) == "True"
