"""What is said of the choice of a backend is what is done."""

import pytest
import torch
from torch import nn

import regroup
from regroup.errors import ParameterError
from regroup.ops import conv2d
from regroup.ops.backends import backend, backends, choose, quickest
from regroup.ops.costs import seconds
from regroup.ops.explain import calls_of
from regroup.ops.passes import PASSES, Call


def test_every_pass_and_backend_of_a_convolution_is_explained():
    conv = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4)
    (told,) = regroup.explain(conv, torch.zeros(2, 8, 9, 9), json=True)
    assert told["layer"] == "" and list(told["passes"]) == list(PASSES)
    ((_, call),) = calls_of(conv, torch.zeros(2, 8, 9, 9))
    for which, row in told["passes"].items():
        assert list(row["backends"]) == list(backends())
        assert row["chosen"] == choose(which, call).name
        able = {n: t["seconds"] for n, t in row["backends"].items() if t["seconds"] is not None}
        assert row["chosen"] == min(able, key=able.get)
        assert all(t["why_not"] is None for t in row["backends"].values())


def test_the_text_names_layers_in_the_order_in_which_they_run_and_says_why_not():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 5, groups=32))
    text = regroup.explain(model, torch.zeros(1, 3, 12, 12))
    first, second = text.index("0: 1x3x12x12"), text.index("2: 1x32x10x10")
    assert first < second and "32 groups" in text[second:]
    assert "for groups of at most 16 channels, not 32" in text[first:second]
    assert "ms expected" in text


def test_what_is_asked_for_is_what_the_operator_is_asked_for(monkeypatch):
    """Padding by name and mode, and inputs without a batch, are those of the layer."""
    asked = []
    for options in (
        {"padding": "same", "dilation": 2},
        {"padding": (1, 2), "padding_mode": "reflect"},
        {"dilation": 2},
    ):
        conv = nn.Conv2d(4, 4, (4, 3), groups=4, **options)
        x = torch.randn(4, 9, 11)
        with torch.no_grad(), monkeypatch.context() as patched:
            ((_, call),) = calls_of(conv, x)
            patched.setattr(
                "regroup.ops.operator.choose",
                lambda which, call: (asked.append(call), choose(which, call))[1],
            )
            regroup.accelerate(conv)
            conv(x)
            assert asked[-1] == call


def test_a_backend_that_is_asked_for_is_the_one_that_is_said_to_be_chosen():
    conv = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    for name in ("aten", "llvm"):
        with backend(name):
            (told,) = regroup.explain(conv, torch.zeros(1, 8, 9, 9), json=True)
        assert {row["chosen"] for row in told["passes"].values()} == {name}


def test_a_model_without_convolutions_is_an_error():
    with pytest.raises(ParameterError, match="a convolution"):
        regroup.explain(nn.ReLU(), torch.zeros(1))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_every_kind_of_convolution_has_prices_for_who_can_compute_it(last, width, kernel):
    shapes = (1, width * 4, 9, 9), (width * 4, width, kernel, kernel)
    call = Call(*shapes, (1, 1), (0, 0), (1, 1), 4, torch.float32, "cpu", last)
    for which in PASSES:
        for name in ("llvm", "aten"):
            if backends()[name].why_not(which, call) is None:
                assert 0 < seconds(name, which, call) < 10
        assert quickest(which, call).name in ("llvm", "aten")


def test_the_choice_does_not_depend_on_the_number_of_threads():
    call, before = Call((4, 64, 28, 28), (64, 1, 3, 3), (1, 1), (1, 1), (1, 1), 64), torch.get_num_threads()
    found = []
    for threads in (1, 2, 8):
        torch.set_num_threads(threads)
        quickest.cache_clear()
        found.append([quickest(which, call).name for which in PASSES])
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_other_types_go_to_pytorch():
    x, weight = torch.randn(1, 4, 5, 5).double(), torch.randn(4, 1, 3, 3).double()
    assert torch.equal(conv2d(x, weight, groups=4), nn.functional.conv2d(x, weight, groups=4))


def test_pytorch_is_given_the_strides_by_which_it_chooses_its_library(monkeypatch):
    """An expanded stand-in for the input made it up to 15 times slower."""
    given, right = [], torch.ops.aten.convolution_backward
    monkeypatch.setattr(
        torch.ops.aten, "convolution_backward", lambda g, x, *rest: (given.append(x), right(g, x, *rest))[1]
    )
    call, weight = Call((2, 8, 9, 9), (8, 1, 3, 3), (1, 1), (1, 1), (1, 1), 8), torch.randn(8, 1, 3, 3)
    for layout in (torch.contiguous_format, torch.channels_last):
        g = torch.randn(2, 8, 9, 9).contiguous(memory_format=layout)
        backends()["aten"].input_gradient(g, weight, call)
        assert given[-1].is_contiguous(memory_format=layout)
