"""One network of each kind really runs: trains, exports, in channels_last and in bf16."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from regroup.networks import create_model
from tests.networks.representatives import representatives, side, small

EVERY = pytest.mark.parametrize("name", representatives())


def logits_loss(output: object, labels: torch.Tensor) -> torch.Tensor:
    outputs = output if isinstance(output, tuple) else (output,)
    return sum(F.cross_entropy(logits, labels) for logits in outputs)


@EVERY
def test_loss_falls_on_a_fixed_batch(name: str) -> None:
    model = create_model(name, **small(name)).train()
    x, labels = torch.randn(4, 3, side(name), side(name)), torch.arange(4)
    # gates that start at nearly 0 flip with every step, and the loss jumps with the groups they decide
    weights = [p for key, p in model.named_parameters() if not key.endswith(".gates")]
    optimizer = torch.optim.Adam(weights, lr=0.0001)
    losses = []
    for _ in range(8):
        loss = logits_loss(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    # of dynamic layers each image chooses the inputs anew, so that single losses waver
    assert sum(losses[-3:]) < sum(losses[:3])


@EVERY
def test_exported_program_computes_the_same(name: str) -> None:
    model = create_model(name, **small(name)).eval()
    x = torch.randn(2, 3, side(name), side(name))
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        assert torch.equal(program.module()(x), model(x))


@EVERY
def test_channels_last_and_bf16_work(name: str) -> None:
    model = create_model(name, **small(name)).eval()
    x = torch.randn(2, 3, side(name), side(name))
    with torch.no_grad():
        expected = model(x)
        last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert last.shape == half.shape == expected.shape
    assert last.isfinite().all() and half.isfinite().all()
    assert (last.argmax(1) == expected.argmax(1)).all()
