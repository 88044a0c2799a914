"""The examples run on networks of different families, and what they train gets better."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean

import pytest

from examples import detect, segment
from tests.processes import run_script

FAMILIES = ["shufflenet_v1_g3_050", "mixnet_s", "condensenetv2_a", "oct_mobilenetv2_100_a0375"]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("network", FAMILIES)
@pytest.mark.parametrize("example", [detect, segment], ids=["detect", "segment"])
def test_loss_falls_and_a_picture_is_drawn(example, network: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    losses = example.main(6, network, side=64, batch=4, scenes=4, picture=picture)
    assert len(losses) == 6
    assert mean(losses[-2:]) < mean(losses[:2])
    assert picture.stat().st_size > 0


def test_without_segmentation_models_the_example_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    result = run_script(str(ROOT / "examples/segment.py"))
    assert result.returncode == 1
    assert result.stderr == "this example needs: pip install segmentation-models-pytorch\n"


@pytest.mark.parametrize("name", ["detect", "segment"])
def test_an_example_explains_itself(name: str) -> None:
    result = run_script(str(ROOT / f"examples/{name}.py"), "--help")
    assert result.returncode == 0 and "--network" in result.stdout
