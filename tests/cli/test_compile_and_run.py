from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from regroup.cli import main


def _run(capsys, *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main(list(argv))
    out, err = capsys.readouterr()
    return exit.value.code, out, err


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "cat.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_compile_prints_the_steps_as_a_table_or_as_data(capsys):
    code, out, _ = _run(capsys, "compile", "shufflenet_v1_g3_025", "--image", "64", "--quiet")
    assert code == 0
    assert "steps" in out.splitlines()[-1]
    code, out, _ = _run(capsys, "compile", "shufflenet_v1_g3_025", "--image", "64", "--json")
    assert code == 0
    assert json.loads(out)["segments"][0]["runs"] == "native"


def test_run_names_the_most_probable_classes(capsys, image):
    code, out, _ = _run(capsys, "run", "shufflenet_v1_g3_025", "--image", image, "--top", "3", "--json")
    rows = json.loads(out)
    assert code == 0
    assert len(rows) == 3
    assert rows[0]["probability"] >= rows[1]["probability"]
    assert rows[0]["name"]


def test_run_says_that_weights_are_random(capsys, image):
    _, out, _ = _run(capsys, "run", "shufflenet_v1_g3_025", "--image", image, "--quiet")
    assert "random weights" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("compile", "no_such_network"), "no_such_network"),
        (("compile", "shufflenet_v1_g3_025", "--image", "0"), "image=0"),
        (("run", "shufflenet_v1_g3_025", "--image", "no_such_file.jpg"), "no_such_file.jpg"),
        (("compile", "timm:resnet18", "--weights", "w.pth"), "weights"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, message):
    code, _, err = _run(capsys, *argv)
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
