from __future__ import annotations

import json

import pytest

from regroup.cli.models import Options, run
from regroup.errors import UnknownNameError
from regroup.networks import list_models


def test_every_network_is_listed_with_its_claims(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options()) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in list_models())
    assert f"{len(list_models())} networks" in out and "1 MAC = 2 FLOPs" in out


def test_pattern_chooses_and_plain_prints_names_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options("squeezenet*", plain=True)) == 0
    assert capsys.readouterr().out.split() == ["squeezenet1_0", "squeezenet1_0_official", "squeezenet1_1"]
    with pytest.raises(UnknownNameError, match="did you mean 'squeezenet1_0'"):
        run(Options("squezenet1_0", plain=True))


def test_json_holds_claims_paper_and_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options("shufflenet_v1_g8_200_official", json=True)) == 0
    (network,) = json.loads(capsys.readouterr().out)
    assert network["parameters"] == 6_521_232 and network["paper"] == "arXiv:1707.01083"
    assert network["config"]["groups"] == 8
