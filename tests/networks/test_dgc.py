"""Dynamic networks while they learn: the official state fits, and what is deployed computes the same."""

import pytest
import torch

from regroup.errors import CheckpointError
from regroup.networks import create_model, networks
from regroup.networks.weights import load_weights
from regroup.strategies.learning import deploy, set_progress
from tests.networks.definitions_condensed import DEFINITIONS

NAME = "dgc_condensenet_cifar_86"


def official_and_learned() -> tuple[torch.nn.Module, torch.nn.Module]:
    build, options = DEFINITIONS[NAME]
    official = build().double().eval()
    learned = create_model(NAME, learned=True, **options).double().eval()
    load_weights(learned, official.state_dict(), networks[NAME].layouts)
    return official, learned


def test_the_learning_form_takes_the_official_state_and_deploys_into_the_network() -> None:
    official, learned = official_and_learned()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(learned(x), official(x))
    plain = deploy(learned)
    deployed = create_model(NAME, **DEFINITIONS[NAME][1]).double().eval()
    deployed.load_state_dict(plain.state_dict())
    torch.testing.assert_close(deployed(x), official(x))


def test_a_state_that_keeps_more_inputs_than_the_gate_is_refused_when_deployed() -> None:
    build, options = DEFINITIONS[NAME]
    state = build().state_dict()
    key = next(key for key in state if key.endswith("_inactive_channels"))
    state[key] -= 1
    with pytest.raises(CheckpointError, match=r"1 unexpected: .*_inactive_channels"):
        create_model(NAME, weights=state, **options)


def test_learning_leaves_inputs_out_by_and_by() -> None:
    model = create_model(NAME, learned=True, depths=(1, 1, 1))
    layer = model.get_submodule("stages.2.0.conv1")
    kept = []
    for progress in (0, 0.05, 0.4, 0.75, 1):
        set_progress(model, progress)
        kept.append(layer.kept)
    assert kept == [40, 40, 26, 10, 10]
