"""Published parameters and MACs, recomputed exactly for every variant."""

from __future__ import annotations

import torch

from regroup.networks import SOURCES, list_models, networks
from regroup.networks.backbone import Backbone
from regroup.ops.counting import count_macs


def test_parameters_and_macs_are_as_published(shadow: Backbone) -> None:
    claims = networks[shadow.pretrained_cfg["architecture"]].claims
    assert sum(p.numel() for p in shadow.parameters()) == claims.parameters
    macs = count_macs(shadow, torch.empty(1, 3, *claims.size, device="meta"))
    assert round(macs / 1e6, 1) == claims.mega_macs


def test_every_claim_says_where_it_comes_from() -> None:
    for name in list_models():
        claims = networks[name].claims
        assert claims.counted in SOURCES and claims.stated in SOURCES, name
        assert networks[name].paper and networks[name].source, name


def test_the_claims_cover_every_network() -> None:
    print(f"\nclaims of {len(list_models())} networks recomputed")
    assert len(list_models()) > 80
