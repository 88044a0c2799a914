from __future__ import annotations

import json
import os
import re
import resource

import numpy as np
import pytest
import torch
from PIL import Image

import regroup
from regroup.cli import main
from regroup.loading import ImageInput
from regroup.networks import create_model
from regroup.training.data.images import MOST_PIXELS
from tests.data.malformed import bomb, encoded, picture


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
    assert re.search(r"^ *all .* steps, ", out, re.MULTILINE)
    code, out, _ = _run(capsys, "compile", "shufflenet_v1_g3_025", "--image", "64", "--json")
    assert code == 0
    assert json.loads(out)["segments"][0]["runs"] == "native"


def test_threads_are_those_of_the_network_and_leave_pytorchs_alone(capsys, image):
    network, before = ("compile", "shufflenet_v1_g3_025", "--image", "64", "--json"), torch.get_num_threads()
    code, out, _ = _run(capsys, *network, "--threads", "3")
    assert code == 0 and json.loads(out)["threads"] == 3
    code, *_ = _run(capsys, "run", "shufflenet_v1_g3_025", "--image", image, "--threads", "2", "--json")
    assert code == 0 and torch.get_num_threads() == before
    for command in (network, ("run", "shufflenet_v1_g3_025", "--image", image)):
        code, _, err = _run(capsys, *command, "--threads", "0")
        assert code != 0 and "threads=0" in err


def test_compile_prints_the_code_of_a_step(capsys):
    network = ("compile", "shufflenet_v1_g3_025", "--image", "64", "--quiet")
    code, out, _ = _run(capsys, *network, "--code", "1")
    assert code == 0
    assert out.startswith("# step 1: ") and "for " in out and "store(" in out
    code, llvm, _ = _run(capsys, *network, "--code", "1", "--llvm")
    assert code == 0 and llvm.startswith("; step 1: ") and "define void @kernel(" in llvm
    code, assembly, _ = _run(capsys, *network, "--code", "1", "--asm")
    assert code == 0 and assembly.startswith("# step 1: ") and "kernel:" in assembly


def test_run_names_the_most_probable_classes(capsys, image):
    code, out, _ = _run(capsys, "run", "shufflenet_v1_g3_025", "--image", image, "--top", "3", "--json")
    ((path, rows),) = [row.values() for row in json.loads(out)]
    assert code == 0 and path == image
    assert len(rows) == 3
    assert rows[0]["probability"] >= rows[1]["probability"]
    assert rows[0]["name"]


def test_run_says_how_it_read_the_weights(capsys, image, tmp_path):
    path, name = str(tmp_path / "weights.pth"), "shufflenet_v1_g3_025"
    torch.save({"state_dict_ema": create_model(name).state_dict()}, path)
    code, out, err = _run(capsys, "run", name, "--image", image, "--weights", path, "--json")
    assert code == 0 and len(json.loads(out)[0]["classes"]) == 5
    assert f"{path}: state_dict_ema, 295 tensors in regroup's layout" in err


def test_run_says_that_weights_are_random(capsys, image):
    _, out, _ = _run(capsys, "run", "shufflenet_v1_g3_025", "--image", image, "--quiet")
    assert "random weights" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("compile", "no_such_network"), "no_such_network"),
        (("compile", "shufflenet_v1_g3_025", "--image", "0"), "image=0"),
        (("run", "shufflenet_v1_g3_025", "--image", "no_such_file.jpg"), "no_such_file.jpg"),
        (("compile", "shufflenet_v1_g3_025", "--image", "64", "--code", "999"), "step='999': must be 0 to "),
        (("compile", "shufflenet_v1_g3_025", "--image", "64", "--code", "?"), "must be the name of one step"),
        (("compile", "shufflenet_v1_g3_025", "--asm"), "asm=True: must be left out where there is no --code"),
        (("compile", "shufflenet_v1_g3_025", "--code", "0", "--json"), "json=True"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, message):
    code, _, err = _run(capsys, *argv)
    assert code == (1 if "no_such_file.jpg" in argv else 2)
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("crop_mode", "interpolation", "crop_pct", "size"),
    [
        ("center", "bicubic", 0.875, (512, 512)),
        ("center", "bilinear", 0.875, (768, 1536)),
        ("center", "bicubic", 0.9, (248 * 3, 248 * 2)),
        ("squash", "bicubic", 0.875, (512, 768)),
        ("squash", "bilinear", 1.0, (448, 100)),
        ("border", "bicubic", 1.0, (448, 224)),
        ("border", "bilinear", 0.875, (512, 256)),
    ],
)
def test_an_image_is_prepared_as_timm_does(crop_mode, interpolation, crop_pct, size, tmp_path):
    """Sizes of which timm's rounding to whole pixels changes nothing, so that both are equal to the bit."""
    from timm.data import create_transform, resolve_data_config

    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = regroup.create_model("shufflenet_v1_g3_025")
    model.pretrained_cfg = {
        **model.pretrained_cfg,
        "crop_mode": crop_mode,
        "crop_pct": crop_pct,
        "interpolation": interpolation,
    }
    timms = create_transform(**resolve_data_config({}, model=model))(Image.fromarray(pixels))[None]
    ours = ImageInput.of(model).read(tmp_path / "a.png")
    mean, std = (torch.tensor(model.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    levels = [255 * (x * std + mean) for x in (ours, timms)]
    assert torch.equal(*(level.round() for level in levels))


def test_the_orientation_of_a_photograph_is_obeyed(tmp_path):
    """As training does: a telephone held sideways stores the picture sideways, and says so."""
    model = regroup.create_model("shufflenet_v1_g3_025")
    upright = picture(size=(300, 400))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "upright.png").write_bytes(encoded(upright, "PNG"))
    (tmp_path / "phone.png").write_bytes(
        encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    )
    first, second = (ImageInput.of(model).read(tmp_path / name) for name in ("upright.png", "phone.png"))
    assert torch.equal(first, second)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_a_thread_of_an_image_takes_little_memory(size, crop_mode, tmp_path):
    model = regroup.create_model("shufflenet_v1_g3_025")
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_mode": crop_mode}
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", size, "red"), "PNG"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert ImageInput.of(model).read(tmp_path / "a.png").shape == (1, 3, 224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # kilobytes


def test_run_refuses_what_training_refuses(tmp_path, capsys):
    (tmp_path / "bomb.png").write_bytes(bomb(12_000, 10_000))
    os.mkfifo(tmp_path / "pipe.png")
    for name, complaint in (("bomb.png", f"more than {MOST_PIXELS} pixels"), ("pipe.png", "is not a file")):
        code, _, err = _run(capsys, "run", "shufflenet_v1_g3_025", "--image", str(tmp_path / name))
        assert code == 1 and complaint in err and len(err.splitlines()) == 1
