"""One shadow of every network, built once: shapes without memory or time."""

from __future__ import annotations

import pytest
import torch

from regroup.networks import build, list_models, networks
from regroup.networks.backbone import Backbone


@pytest.fixture(scope="session", params=list_models())
def shadow(request: pytest.FixtureRequest) -> Backbone:
    """A network on the meta device in eval mode. Tests that change it take a `twin`."""
    with torch.device("meta"):
        return build(networks[request.param]).eval()
