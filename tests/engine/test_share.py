"""No silent fall-back: who compiles a network that PyTorch goes on running is told so, once, and why."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from regroup import compile
from regroup.errors import EngineError, EngineWarning


class Mostly(nn.Module):
    """A convolution, which runs natively, and a product of matrices, which does not."""

    def __init__(self, native: int, left: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, native, 3, padding=1)
        self.left = nn.Parameter(torch.randn(left, 8, 8))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        return y.mean() + (x[:, :1] @ self.left).mean()  # numbers of the batch, products of matrices


class Counts(nn.Module):
    """Changes what it holds, so that all of it runs in PyTorch."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.relu()


X = torch.randn(2, 3, 8, 8)


def warned(model: nn.Module, **options: bool) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fast = compile(model, X, **options)
        for batch in (1, 2, 3):
            fast(X[:1].expand(batch, -1, -1, -1))
    return [str(w.message) for w in found if w.category is EngineWarning]


def test_a_network_that_is_mostly_native_says_nothing():
    assert warned(Mostly(native=16, left=3)) == []


def test_a_network_that_is_mostly_pytorchs_says_so_once():
    (text,) = warned(Mostly(native=1, left=24))
    # of 27 x 64 multiply-adds against 24 x 8 x 64 an image
    share = 27 * 64 / (27 * 64 + 24 * 8 * 64)
    assert f"only {share:.0%} of the network's multiply-adds" in text
    assert f"{1 - share:.0%}: no kernel for aten::" in text


def test_a_network_that_is_left_to_pytorch_as_a_whole_says_why_once():
    (text,) = warned(Counts().eval())
    assert "all of the network runs in PyTorch" in text
    assert "calls" in text


def test_who_is_strict_gets_an_error():
    for model in (Mostly(native=1, left=24), Counts().eval()):
        with pytest.raises(EngineError, match="PyTorch"):
            compile(model, X, strict=True)
    fast = compile(Mostly(native=16, left=3), X, strict=True)
    assert copy.deepcopy(fast).strict


def test_no_images_are_no_reason_to_complain():
    assert compile(nn.Conv2d(3, 4, 3).eval(), X, strict=True)(X[:0]).shape == (0, 4, 6, 6)
