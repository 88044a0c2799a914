"""G-ResNeXt with some gates open and some closed, as the official weights have them, and deployed."""

import torch

from regroup.networks import create_model
from regroup.strategies.learning import deploy
from tests.networks.definitions_condensed import DEFINITIONS


def test_gates_of_both_kinds_are_taken_and_deploy_into_plain_groups() -> None:
    build, options = DEFINITIONS["g_resnext50"]
    official = build().double().eval()  # its gates start at random
    model = create_model("g_resnext50", weights=official.state_dict(), **options).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(model(x), official(x))
    plain = deploy(model)
    torch.testing.assert_close(plain(x), official(x))
    assert sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in model.parameters())
