"""What `explain` says of times: no more than the machine can do, and nothing of what is too short."""

import warnings

import pytest
import torch
from torch import nn

from regroup.engine.running import explain as explain_module
from regroup.engine.running.compiled import compile
from regroup.engine.running.timing import StepTime
from regroup.errors import EngineError, EngineWarning
from regroup.kernels.machine.target import Target
from regroup.kernels.program.peak import peak_gflops
from regroup.ops.explain import explain as explain_operators
from tests.engine.test_compiled import Small
from tests.processes import in_fork


@pytest.fixture(scope="module")
def fast():
    return compile(Small().eval(), torch.randn(1, 3, 12, 12))


@pytest.mark.parametrize("lose", [1.0, 1e-4])
def test_no_share_of_the_peak_passes_100_and_what_is_too_short_has_no_time(fast, lose, monkeypatch):
    """Also where the peak, or a step, was measured on a machine that was doing something else."""
    monkeypatch.setattr(explain_module, "peak_gflops", lambda: lose * peak_gflops())
    data = fast.explain(json=True)
    steps = [step for segment in data["segments"] for step in segment["steps"]]
    assert steps and all(0 <= step["percent_of_peak"] <= 100 for step in [*steps, data["total"]])
    times = [StepTime(0.0, 1.0) for _ in steps]
    monkeypatch.setattr(explain_module, "step_times", lambda segment, threads: times[: len(segment.work)])
    rows = fast.explain().splitlines()[1 : 1 + len(steps)]
    assert "short: too short" in fast.explain() and all(row.split()[1] == "short" for row in rows)


def test_a_busy_machine_is_said_to_be_busy():
    data = {"segments": [], "total": {"spread": 0.3, "running": 0.4}}
    lines = explain_module.doubts(data)
    assert lines[0].endswith("30 % apart") and lines[1].endswith("ran 40 % of the time")
    assert not explain_module.doubts({"segments": [], "total": {"spread": 0.05, "running": 0.99}})


def test_winograds_convolutions_execute_four_ninths_of_the_definition():
    model = nn.Conv2d(64, 64, 3, padding=1).eval()
    (segment,) = compile(model, torch.zeros(1, 64, 56, 56)).explain(json=True)["segments"]
    (step,) = [step for step in segment["steps"] if step["parts"][0]["kernel"] == "winograd"]
    assert step["executed_macs"] == pytest.approx(step["parts"][0]["macs"] * 4 / 9)


def test_what_a_compiled_network_cannot_be_is_one_clear_error(fast):
    with pytest.raises(EngineError, match=r"has no TorchScript: script the model, which is its \.original"):
        torch.jit.script(fast)
    with pytest.raises(EngineError, match=r"is on meta; .* run the model itself, also on meta"):
        fast(torch.zeros(1, 3, 12, 12, device="meta"))


def test_a_forked_process_says_once_that_pytorchs_operators_have_one_thread():
    class Left(nn.Module):
        def forward(self, x):
            return torch.special.erfcx(x)

    x = torch.randn(1, 3, 12, 12)
    left, native = compile(Left().eval(), x, strict=None), compile(Small().eval(), x)
    want = left(x).numpy()

    def child() -> None:
        torch.set_num_threads(2)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            native(x)
            counts = [len(said)]
            for _ in range(3):
                assert (left(x).numpy() == want).all()
                counts.append(len(said))
        print(counts, said[0].message, torch.get_num_threads())
        assert str(said[0].message) in left.explain()

    ended = in_fork(child)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("[0, 1, 1, 1] PyTorch's operators take one thread in a forked process")
    assert ended.stdout.endswith(" 2\n")


def test_an_x86_without_avx2_is_left_to_pytorch_with_a_word(monkeypatch):
    old = Target("128-bit", "x86_64-unknown-linux-gnu", "nehalem", "", 4, 16, False)
    monkeypatch.setattr(Target, "host", lambda: old)
    model, x = Small().eval(), torch.randn(1, 3, 12, 12)
    with pytest.warns(EngineWarning, match="this CPU has neither AVX2 and FMA nor NEON"):
        left = compile(model, x)
    with torch.no_grad():
        assert torch.equal(left(x), model(x))
    assert "neither AVX2" in left.explain()
    assert "neither AVX2" in str(explain_operators(nn.Conv2d(8, 8, 3, groups=2), torch.randn(1, 8, 9, 9)))
