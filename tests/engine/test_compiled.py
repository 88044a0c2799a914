from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regroup.engine.running.compiled import compile
from regroup.engine.watching import held, weights
from regroup.errors import EngineError
from tests.engine.models import Gate, RandomNet, Shuffle, load, randomise


class Small(nn.Module):
    """Something of everything, at 12x12."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.unit = nn.Sequential(
            nn.Conv2d(16, 32, 1, groups=4), Shuffle(4), nn.Conv2d(32, 32, 3, 1, 1, groups=32), Gate(32)
        )
        self.down = nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.unit(x) + self.down(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return randomise(Small())


@pytest.fixture(scope="module")
def fast(model):
    return compile(model, torch.randn(1, 3, 12, 12))


def assert_as_good_as_pytorch(model: nn.Module, result: Tensor, x: Tensor) -> None:
    """The error is at most twice PyTorch's, in the mean and against float64."""
    with torch.no_grad():
        theirs = model(x)
        exact = model.double()(x.double())
    model.float()
    ours, theirs = ((y.double() - exact).square().mean().sqrt() for y in (result, theirs))
    assert ours <= 2 * theirs + torch.finfo(torch.float32).eps * exact.abs().mean()


def test_a_compiled_network_is_as_good_as_pytorch(model, fast):
    x = torch.randn(2, 3, 12, 12)
    assert_as_good_as_pytorch(model, fast(x), x)


PROGRAMS = st.lists(
    st.tuples(st.integers(0, 10), st.integers(0, 12), st.integers(0, 23)), min_size=1, max_size=8
)


@settings(max_examples=25, deadline=None)
@given(PROGRAMS)
@example([(2, 3, 3), (3, 9, 2), (7, 1, 17)])  # x + shuffle(x): its order was moved to and fro for ever
def test_random_networks_of_integers_are_exact(program):
    model = RandomNet(program)
    x = torch.randint(-3, 4, (2, RandomNet.CHANNELS, 5, 6)).float()
    with torch.no_grad():
        exact = model.double()(x.double())
    assume(exact.abs().max() < 2**24)
    assert torch.equal(compile(model.float(), x)(x).double(), exact)


@pytest.mark.parametrize("batch", [0, 1, 3, 8])
@pytest.mark.parametrize("threads", [1, 2])
def test_any_batch_size_and_number_of_threads_gives_the_same(fast, batch, threads):
    x = torch.randn(8, 3, 12, 12)
    whole, before = fast(x), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(fast(x[:batch]), whole[:batch])
    finally:
        torch.set_num_threads(before)


def test_memory_format_and_strides_do_not_matter(fast):
    x = torch.randn(4, 3, 12, 12)
    expected = fast(x)
    assert torch.equal(fast(x.to(memory_format=torch.channels_last)), expected)
    wide = torch.randn(4, 5, 14, 30)
    wide[:, 1:4, 1:13, ::2][..., :12] = x
    assert torch.equal(fast(wide[:, 1:4, 1:13, ::2][..., :12]), expected)


def test_results_belong_to_the_caller(fast):
    x = torch.randn(1, 3, 12, 12)
    first = fast(x)
    copy = first.clone()
    fast(torch.randn(1, 3, 12, 12))
    assert torch.equal(first, copy)


def test_nan_in_one_image_stays_in_that_image(fast):
    x = torch.randn(3, 3, 12, 12)
    expected = fast(x)
    x[1, 0, 5, 5] = float("nan")
    result = fast(x)
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.randn(3, 12, 12), "compiled for"),
        (torch.randn(1, 3, 12, 12).double(), "float32"),
        (torch.randn(1, 3, 12, 12).to(torch.bfloat16), "float32"),
        (torch.randn(1, 3, 12, 12, device="meta"), "CPU"),
        (torch.randn(1, 3, 12, 12, requires_grad=True), "detach"),
        ([[1.0]], "tensor"),
    ],
)
def test_an_input_that_does_not_fit_is_one_clear_error(fast, x, message):
    with pytest.raises(EngineError, match=message):
        fast(x)


def test_a_model_in_training_mode_is_an_error():
    model = randomise(Small()).train()
    with pytest.raises(EngineError, match="eval"):
        compile(model, torch.randn(1, 3, 12, 12))
    fast = compile(model.eval(), torch.randn(1, 3, 12, 12))
    model.train()
    with pytest.raises(EngineError, match="eval"):
        fast(torch.randn(1, 3, 12, 12))


def _in_place(model: Small) -> None:
    with torch.no_grad():
        model.head.weight.mul_(2)


def _new_data(model: Small) -> None:
    model.down.weight.data = model.down.weight.data * 2


def _new_parameter(model: Small) -> None:
    model.head.bias = nn.Parameter(torch.ones(10))


def _new_statistics(model: Small) -> None:
    model.stem[1].running_mean.add_(1)


def _new_module(model: Small) -> None:
    model.head = nn.Linear(32, 10).eval()


def _loaded(model: Small) -> None:
    model.load_state_dict({k: v * 1.5 for k, v in model.state_dict().items()})


def _without_a_bias(model: Small) -> None:
    del model.head.bias
    model.head.register_parameter("bias", None)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "change",
    [_in_place, _new_data, _new_parameter, _new_module, _new_statistics, _loaded, _without_a_bias],
)
def test_changed_weights_are_never_stale(change, native, monkeypatch):
    if not native:
        for module in (held, weights):
            monkeypatch.setattr(module, "interfaces", lambda: None)
    model, x = randomise(Small()), torch.randn(2, 3, 12, 12)
    fast = compile(model, x)
    before = fast(x)
    change(model)
    after = fast(x)
    assert not torch.equal(before, after)
    assert_as_good_as_pytorch(model, after, x)


def test_a_frozen_network_keeps_its_weights():
    model, x = randomise(Small()), torch.randn(2, 3, 12, 12)
    frozen = compile(model, x, frozen=True)
    before = frozen(x)
    _in_place(model)
    _new_module(model)
    assert torch.equal(frozen(x), before)
    with pytest.raises(EngineError, match="compile it again"):
        frozen.refresh()


def test_a_single_number_changed_uncounted_is_taken_on_demand():
    model, x = randomise(Small()), torch.randn(2, 3, 12, 12)
    fast = compile(model, x)
    before = fast(x)
    model.head.weight.data[3, 5] += 1
    fast.refresh()
    after = fast(x)
    assert not torch.equal(before, after)
    assert_as_good_as_pytorch(model, after, x)


def test_threads_that_share_a_network_do_not_disturb_each_other(fast):
    inputs = [torch.randn(2, 3, 12, 12) for _ in range(8)]
    expected = [fast(x) for x in inputs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(20):
            if not torch.equal(fast(inputs[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Odd(nn.Module):
    """Has operators in the middle that the engine does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.first(x).relu()
        y = torch.cumsum(x, 2).view(len(x), -1, *x.shape[2:])
        return {"y": self.last(y), "x": x}


def test_what_the_engine_lacks_runs_in_pytorch_and_is_explained():
    model = Odd().eval()
    fast = compile(model, torch.randn(1, 3, 8, 8))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            expected = model(x)
        result = fast(x)
        assert result.keys() == expected.keys()
        for name, y in result.items():
            torch.testing.assert_close(y, expected[name])
    assert "aten::cumsum" in fast.explain()


def test_flow_that_depends_on_numbers_is_left_to_pytorch():
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    fast = compile(Branch().eval(), torch.randn(1, 3, 4, 4))
    x = -torch.ones(1, 3, 4, 4)
    assert torch.equal(fast(x), -x)
    assert "depends on the numbers" in fast.explain()


def test_explain_adds_up(fast):
    data = fast.explain(json=True)
    macs = sum(part["macs"] for s in data["segments"] for step in s["steps"] for part in step["parts"])
    assert macs == data["total"]["macs"] == 16 * 27 * 36 + (32 * 4 + 32 * 9 + 16 * 32) * 36 + 32 * 32 + 320
    assert "gate" in fast.explain()


def test_pytorch_finds_the_backend_by_its_name(model):
    x = torch.randn(2, 3, 12, 12)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="regroup")
    with torch.no_grad():
        assert_as_good_as_pytorch(model, compiled(x), x)
        assert compiled(torch.randn(5, 3, 12, 12)).shape == (5, 10)
    assert compiled(x).requires_grad, "with gradients PyTorch runs it"
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["timm:mobilenetv2_100", "pytorchcv:shufflenet_g3_w1", "torchvision:squeezenet1_1"]
)
def test_published_networks_are_as_good_as_pytorch(name):
    model, x = load(name), torch.randn(2, 3, 64, 64)
    assert_as_good_as_pytorch(model, compile(model, x)(x), x)


@pytest.mark.parametrize("slope", [0.01, 0.2])
def test_a_leaky_relu_of_any_slope_is_right(slope):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.LeakyReLU(slope)).eval()
    x = torch.randint(-3, 4, (1, 3, 5, 5)).float()
    for parameter in model.parameters():
        nn.init.constant_(parameter, -1.0)
    assert torch.equal(compile(model, x)(x), model(x))


@pytest.mark.parametrize("factor", [0.5, 1.7, 2, 4])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_an_image_is_resized_by_the_factor_that_was_given(factor, mode):
    model, x = nn.Upsample(scale_factor=factor, mode=mode).eval(), torch.randn(1, 8, 6, 10)
    torch.testing.assert_close(compile(model, x)(x), model(x))
