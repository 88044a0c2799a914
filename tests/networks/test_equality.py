"""Our networks compute what torchvision's, timm's and pytorchcv's compute with the same weights.

In float64 two right implementations differ only by the order of their sums: 1e-10 of the largest value is far
above that and far below any mistake. In float32 they then differ by no more than both differ from float64.
"""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from regroup.networks import Network, build, list_models, networks
from regroup.networks.weights import load_weights
from regroup.ops.shapes import without_numbers
from tests.networks.libraries import Reference
from tests.networks.references import REFERENCES

# drawn once: as many as a prime, so that no tensor's rows repeat each other
RANDOM = torch.rand(1_000_003, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def image_side(network: Network) -> int:
    return 8 if network.claims.size[0] < 64 else max(64, network.build.min_size)


def pairs() -> dict[str, tuple[Network, Reference]]:
    """Return every network with each of its references, once where several names stand for the same pair.

    Where both are built with fewer blocks than are published, variants that differ by their depth are the
    same network; the name of the pair holds them all.
    """
    found: dict[object, tuple[Network, Reference]] = {}
    names: dict[object, list[str]] = {}
    for name, references in sorted(REFERENCES.items()):
        network = networks[name]
        for reference in references:
            config = replace(network.config, **reference.options)
            layouts = tuple(map(id, network.layouts))
            key = network.build, config, layouts, image_side(network), reference.whose, reference.recipe
            found.setdefault(key, (network, reference))
            names.setdefault(key, []).append(name)
    return {f"{','.join(names[key])}-{pair[1].whose}": pair for key, pair in found.items()}


PAIRS = pairs()


def fill(model: nn.Module) -> None:
    """Give every weight and statistic a random value of a size at which signals neither vanish nor grow."""
    start = 0
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        low, high = (0.5, 1.5) if tensor.ndim == 1 and not name.endswith(("bias", "mean")) else (-0.2, 0.2)
        if tensor.ndim > 1:
            high = (3 / tensor[0].numel()) ** 0.5
            low = -high
        rest = tensor.view(-1)
        while len(rest):
            drawn = RANDOM[start : start + len(rest)]
            rest[: len(drawn)] = drawn.mul(high - low).add_(low)
            start, rest = (start + len(drawn)) % len(RANDOM), rest[len(drawn) :]


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


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest absolute difference, in fewer passes than by the absolute values."""
    low, high = torch.sub(ours.detach(), theirs.detach()).aminmax()
    return float(torch.maximum(-low, high))


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    return distance(ours, theirs) / distance(theirs, torch.zeros(()))


def logits(output: object) -> Tensor:
    """Join the logits of the auxiliary heads to the others."""
    return torch.cat(list(output)) if isinstance(output, tuple) else output


@pytest.mark.parametrize(("network", "reference"), PAIRS.values(), ids=PAIRS)
def test_network_equals_its_reference_in_eval_and_in_a_training_step(
    network: Network, reference: Reference, unset: None
) -> None:
    theirs = plain(reference.build()).double()
    fill(theirs)
    torch.set_default_dtype(torch.float64)
    ours = plain(build(network, **reference.options))
    load_weights(ours, theirs.state_dict(), network.layouts)
    side = image_side(network)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))

    ours.eval(), theirs.eval()
    with torch.no_grad():
        assert largest_error(ours(images), logits(theirs(images))) < 1e-10

    ours.train(), theirs.train()
    ours_out, theirs_out = logits(ours(images)), logits(theirs(images))
    assert largest_error(ours_out, theirs_out) < 1e-10
    direction = torch.randn(theirs_out.shape, generator=torch.Generator().manual_seed(2))
    (ours_out * direction).sum().backward()
    (theirs_out * direction).sum().backward()
    gradients = {key: p.grad for key, p in theirs.named_parameters()}
    compare_training(
        ours, translated(network, reference, {**theirs.state_dict(), **gradients}), reference.lacks
    )


def translated(network: Network, reference: Reference, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state of theirs under our names and in our shapes, as it would be loaded."""
    with without_numbers():
        shadow = build(network, **reference.options)
    with mock.patch.object(shadow, "load_state_dict") as load:
        load_weights(shadow, state, network.layouts)
    return load.call_args.args[0]


def compare_training(ours: nn.Module, theirs: dict[str, Tensor], lacking: tuple[str, ...]) -> None:
    """Compare gradients and statistics with theirs."""
    scale = max(distance(p.grad, torch.zeros(())) for p in ours.parameters())
    for key, parameter in ours.named_parameters():
        if key in lacking:
            continue
        error = distance(parameter.grad, theirs[key])
        assert error < 1e-9 * scale, f"gradient of {key} differs by {error / scale:.1e} of the largest"
    for key, value in ours.named_buffers():
        if value.is_floating_point():
            assert largest_error(value, theirs[key]) < 1e-10, key


def test_every_network_has_a_reference() -> None:
    print(f"\n{len(REFERENCES)} of {len(list_models())} networks are compared in {len(PAIRS)} pairs")
    assert set(list_models()) == set(REFERENCES)
