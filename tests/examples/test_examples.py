"""The examples run on networks of different families, and what they train gets better."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from examples import detect
from tests.processes import run_script

FAMILIES = ["shufflenet_v1_g3_050", "mixnet_s", "condensenetv2_a", "oct_mobilenetv2_100_a0375"]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("network", FAMILIES)
def test_loss_falls_and_a_picture_is_drawn(network: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    losses = detect.main(6, network, side=64, batch=4, scenes=4, picture=picture)
    assert len(losses) == 6
    assert mean(losses[-2:]) < mean(losses[:2])
    assert picture.stat().st_size > 0


@pytest.mark.parametrize("name", ["detect"])
def test_an_example_explains_itself(name: str) -> None:
    result = run_script(str(ROOT / f"examples/{name}.py"), "--help")
    assert result.returncode == 0 and "--network" in result.stdout
