"""Published parameters and MACs, recomputed exactly for every variant."""

from __future__ import annotations

import pytest
import torch

from regroup.networks import SOURCES, build, list_models, networks
from regroup.ops.counting import count


@pytest.mark.parametrize("name", list_models())
def test_parameters_and_macs_are_as_published(name: str) -> None:
    claims = networks[name].claims
    with torch.device("meta"):
        cost = count(build(networks[name]), claims.size)
    assert cost.parameters == claims.parameters
    assert round(cost.macs / 1e6, 1) == claims.mega_macs


def test_every_claim_says_where_it_comes_from() -> None:
    for name in list_models():
        claims = networks[name].claims
        assert claims.counted in SOURCES and claims.stated in SOURCES, name
        assert networks[name].paper and networks[name].source, name


def test_the_claims_cover_every_network() -> None:
    print(f"\nclaims of {len(list_models())} networks recomputed")
    assert len(list_models()) > 80
