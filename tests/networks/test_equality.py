"""Our networks compute what torchvision's, timm's and pytorchcv's compute with the same weights.

In float64 two right implementations differ only by the order of their sums: 1e-10 of the largest value is far
above that and far below any mistake. In float32 they then differ by no more than both differ from float64.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regroup.networks import build, list_models, networks
from regroup.networks.weights import load_weights
from tests.networks.references import REFERENCES

CASES = [(name, i) for name, references in sorted(REFERENCES.items()) for i in range(len(references))]


def fill(model: nn.Module) -> None:
    """Give every weight and statistic a random value of a size at which signals neither vanish nor grow."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        low, high = (0.5, 1.5) if tensor.ndim == 1 and not name.endswith(("bias", "mean")) else (-0.2, 0.2)
        if tensor.ndim > 1:
            high = (3 / tensor[0].numel()) ** 0.5
            low = -high
        tensor.uniform_(low, high, generator=generator)


def plain(model: nn.Module) -> nn.Module:
    """Take out what a recipe sets and a network does not define: dropout, momentum of statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the random start that `fill` overwrites: half the time of building a network."""
    for name in (
        "kaiming_uniform_",
        "kaiming_normal_",
        "normal_",
        "uniform_",
        "trunc_normal_",
        "xavier_uniform_",
    ):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())


def logits(output: object) -> Tensor:
    """Join the logits of the auxiliary heads to the others."""
    return torch.cat(list(output)) if isinstance(output, tuple) else output


@pytest.mark.parametrize(("name", "index"), CASES, ids=[f"{n}-{REFERENCES[n][i].whose}" for n, i in CASES])
def test_network_equals_its_reference_in_eval_and_in_a_training_step(
    name: str, index: int, unset: None
) -> None:
    network, reference = networks[name], REFERENCES[name][index]
    theirs = plain(reference.build()).double()
    fill(theirs)
    ours = plain(build(network, **reference.options)).double()
    load_weights(ours, theirs.state_dict(), network.layouts)
    side = 8 if network.claims.size[0] < 64 else max(64, ours.min_size)
    images = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    ours.eval(), theirs.eval()
    with torch.no_grad():
        assert largest_error(ours(images), logits(theirs(images))) < 1e-10

    ours.train(), theirs.train()
    ours_out, theirs_out = logits(ours(images)), logits(theirs(images))
    assert largest_error(ours_out, theirs_out) < 1e-10
    direction = torch.randn(theirs_out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (ours_out * direction).sum().backward()
    (theirs_out * direction).sum().backward()
    carried = build(network, **reference.options).double()
    gradients = {key: p.grad for key, p in theirs.named_parameters()}
    load_weights(carried, {**theirs.state_dict(), **gradients}, network.layouts)
    compare_training(ours, carried, reference.lacks)


def compare_training(ours: nn.Module, carried: nn.Module, lacking: tuple[str, ...]) -> None:
    """Compare gradients and statistics with theirs, which `carried` holds as its parameters and buffers."""
    scale = max(float(p.grad.abs().max()) for p in ours.parameters())
    for key, parameter in ours.named_parameters():
        if key in lacking:
            continue
        error = float((parameter.grad - carried.get_parameter(key).detach()).abs().max())
        assert error < 1e-9 * scale, f"gradient of {key} differs by {error / scale:.1e} of the largest"
    for key, value in carried.named_buffers():
        if value.is_floating_point():
            assert largest_error(ours.get_buffer(key), value) < 1e-10, key


def test_every_network_has_a_reference() -> None:
    print(f"\n{len(REFERENCES)} of {len(list_models())} networks are compared with {len(CASES)} references")
    assert set(list_models()) == set(REFERENCES)
